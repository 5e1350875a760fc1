//go:build unix && !linux

package servers

import "syscall"

// EndWithParent are attributes of a process. Only Linux can tie its end to that
// of the one that started it: elsewhere Stop has to be reached.
func EndWithParent(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user}
}
