package crash_test

import "syscall"

// dieWithParent makes the kernel kill a child whose parent dies, even a child
// that is too busy to notice that its standard input has ended.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
