package main

import "syscall"

// endWithParent makes the kernel end a command when this process is killed. Otherwise the
// command would keep running after its hold has expired.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
