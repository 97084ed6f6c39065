//go:build unix

package disrupt

import "syscall"

// inGroupOfItsOwn keeps signals of the terminal away from a process.
func inGroupOfItsOwn() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
