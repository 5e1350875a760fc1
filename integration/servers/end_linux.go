package servers

import "syscall"

// EndWithParent are attributes of a process that ends with the one that started
// it, however that ends. A nil user is this one.
func EndWithParent(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Pdeathsig: syscall.SIGKILL}
}
