#include "textflag.h"

// func entry()
//
// The process's first instruction when linked with -E main.entry. For
// "rkt-supervisor init" it does what beInit does without ever starting the Go
// runtime: such an init holds 60 KB instead of 600 and is up a millisecond sooner.
// For anything else it goes on to the Go runtime with the stack as it found it.
TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	CMPQ 0(SP), $2            // argc
	JNE  runtime
	MOVQ 16(SP), BX           // argv[1]
	CMPL 0(BX), $0x74696e69   // "init"
	JNE  runtime
	CMPB 4(BX), $0
	JNE  runtime

	SUBQ $64, SP
	MOVQ $1, 0(SP)            // struct sigaction: SIG_IGN,
	MOVQ $0, 8(SP)            // no flags,
	MOVQ $0, 16(SP)           // no restorer,
	MOVQ $0, 24(SP)           // no mask
	MOVQ $13, AX              // rt_sigaction(SIGCHLD, …): the kernel reaps
	MOVQ $17, DI
	MOVQ SP, SI
	MOVQ $0, DX
	MOVQ $8, R10
	SYSCALL
	MOVQ $1, AX               // write(1, "\x01", 1): the namespaces stand
	MOVQ $1, DI
	MOVQ SP, SI
	MOVQ $1, DX
	SYSCALL
	MOVQ $3, AX               // close(1)
	MOVQ $1, DI
	SYSCALL

again:
	MOVQ $0, AX               // read(0, …, 1): until the supervisor lets go
	MOVQ $0, DI
	MOVQ SP, SI
	MOVQ $1, DX
	SYSCALL
	CMPQ AX, $1
	JEQ  again
	CMPQ AX, $-4              // EINTR
	JEQ  again
	MOVQ $231, AX             // exit_group(0)
	MOVQ $0, DI
	SYSCALL

runtime:
	JMP _rt0_amd64_linux(SB)
