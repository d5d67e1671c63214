// Command trysyscalls tells what each system call of this machine answers to
// arguments that nobody can mean: what a seccomp filter forbids, it forbids before
// the kernel looks at them.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// last is beyond the newest system call that a filter may know.
const last = 470

// skipped end, stop or double the process, or wait for all disks.
var skipped = map[int]bool{
	syscall.SYS_EXIT: true, syscall.SYS_EXIT_GROUP: true, syscall.SYS_FORK: true, syscall.SYS_VFORK: true,
	syscall.SYS_PAUSE: true, syscall.SYS_SYNC: true, syscall.SYS_RT_SIGRETURN: true,
}

func main() {
	if len(os.Args) == 2 {
		n, err := strconv.Atoi(os.Args[1])
		if err != nil {
			panic(err)
		}
		const nonsense = ^uintptr(0)
		_, _, errno := syscall.RawSyscall6(uintptr(n), nonsense, nonsense, nonsense, nonsense, nonsense, nonsense)
		os.Exit(int(errno))
	}
	for n := range last {
		if !skipped[n] {
			fmt.Println(n, try(n))
		}
	}
}

// try makes one call in a process of its own, because some do it no good.
func try(n int) string {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"try", strconv.Itoa(n)}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		return err.Error()
	}
	var st syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &st, 0, nil); err != nil {
		return err.Error()
	}
	if st.Signaled() {
		return st.Signal().String()
	}
	if st.ExitStatus() == 0 {
		return "allowed"
	}
	return syscall.Errno(st.ExitStatus()).Error()
}
