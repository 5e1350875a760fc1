package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The processors of the two sides.
const (
	serviceCPU   = 0
	generatorCPU = 1
)

// startOn starts a command that may run on one processor only. The thread that forks passes its
// affinity on.
func startOn(cpu int, cmd *exec.Cmd) error {
	return pinned(cpu, cmd.Start)
}

// pinned calls do on a processor.
func pinned(cpu int, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the affinity: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to processor %d: %w", cpu, err)
	}
	err := do()
	return errorOr(err, unix.SchedSetaffinity(0, &before))
}

func errorOr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// cpuTime returns the processor time that this process, or with unix.RUSAGE_THREAD the calling
// thread, has used.
func cpuTime(who int) time.Duration {
	var u unix.Rusage
	if unix.Getrusage(who, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processor is the name that the machine gives its processor.
func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "an unknown processor"
}

// kernel is the release of the kernel.
func kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(data))
}
