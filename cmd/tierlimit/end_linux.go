package main

import "syscall"

// endWithParent has a command be ended when this process is killed: it would run on although
// its hold is renewed no more.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
