package conformance

import "syscall"

// dieWithParent makes the kernel kill a process whose parent dies, even one that
// is frozen and doesn't notice that its standard input has ended.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
