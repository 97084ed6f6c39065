package subprocess

import "syscall"

// DieWithParent makes the kernel kill a process whose parent dies, even one that
// is frozen, or too busy to notice that its standard input has ended.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
