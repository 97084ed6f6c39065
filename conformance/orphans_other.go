//go:build unix && !linux

package conformance

import "syscall"

// dieWithParent leaves a process to notice that its standard input has ended.
func dieWithParent() *syscall.SysProcAttr { return nil }
