//go:build unix

package testenv

import "syscall"

// inGroupOfItsOwn keeps signals of the terminal away from a process.
func inGroupOfItsOwn() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
