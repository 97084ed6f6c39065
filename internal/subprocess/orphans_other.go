//go:build unix && !linux

package subprocess

import "syscall"

// DieWithParent leaves a process to notice that its standard input has ended.
func DieWithParent() *syscall.SysProcAttr { return nil }
