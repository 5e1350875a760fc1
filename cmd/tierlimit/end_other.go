//go:build !linux

package main

import "syscall"

// endWithParent returns nil: the system cannot end a command with its parent.
func endWithParent() *syscall.SysProcAttr { return nil }
