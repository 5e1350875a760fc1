//go:build !linux

package main

import "syscall"

// endWithParent does nothing where a command cannot be told that its parent is gone.
func endWithParent() *syscall.SysProcAttr { return nil }
