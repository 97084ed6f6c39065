//go:build !linux

package crash_test

import "syscall"

// dieWithParent is left to the end of standard input here.
func dieWithParent() *syscall.SysProcAttr { return nil }
