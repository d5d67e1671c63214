package container

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real-time signals as programs know them: the C library keeps the first two.
const sigRTMin, sigRTMax = 34, 64

// stopSignal is the container's own, else its image's, else SIGTERM; as a number
// and as CRI names it.
func stopSignal(asked runtimeapi.Signal, image string) (int, runtimeapi.Signal, error) {
	if asked != runtimeapi.Signal_RUNTIME_DEFAULT {
		number := numberOf(asked)
		if number == 0 {
			return 0, 0, invalid("stop_signal", "%d is unknown", asked)
		}
		return number, asked, nil
	}
	if image == "" {
		return int(unix.SIGTERM), runtimeapi.Signal_SIGTERM, nil
	}
	name := strings.ToUpper(strings.TrimSpace(image))
	number, err := strconv.Atoi(name)
	if err != nil {
		if !strings.HasPrefix(name, "SIG") {
			name = "SIG" + name
		}
		name = strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(name)
		number = numberOf(runtimeapi.Signal(runtimeapi.Signal_value[name]))
	}
	for s := range runtimeapi.Signal_name {
		if number != 0 && numberOf(runtimeapi.Signal(s)) == number && preferred(runtimeapi.Signal(s)) {
			return number, runtimeapi.Signal(s), nil
		}
	}
	return 0, 0, fmt.Errorf("stop signal of the image: %w", invalid("image", "%q is no signal", image))
}

// preferred is false for the older of two names of one number.
func preferred(s runtimeapi.Signal) bool {
	switch s {
	case runtimeapi.Signal_SIGCLD, runtimeapi.Signal_SIGIOT, runtimeapi.Signal_SIGPOLL:
		return false
	}
	return true
}

// numberOf returns a signal's number on this machine; 0 if it is none.
func numberOf(s runtimeapi.Signal) int {
	name := s.String()
	switch {
	case s == runtimeapi.Signal_SIGCLD:
		return int(unix.SIGCHLD)
	case s == runtimeapi.Signal_SIGPOLL:
		return int(unix.SIGIO)
	case s == runtimeapi.Signal_SIGIOT:
		return int(unix.SIGABRT)
	case s >= runtimeapi.Signal_SIGRTMIN && s <= runtimeapi.Signal_SIGRTMINPLUS15:
		return sigRTMin + int(s-runtimeapi.Signal_SIGRTMIN)
	case s >= runtimeapi.Signal_SIGRTMAXMINUS14 && s <= runtimeapi.Signal_SIGRTMAX:
		return sigRTMax - int(runtimeapi.Signal_SIGRTMAX-s)
	}
	return int(unix.SignalNum(name))
}
