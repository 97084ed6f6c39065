//go:build !unix

package disrupt

import "syscall"

// inGroupOfItsOwn does nothing where there are no process groups.
func inGroupOfItsOwn() *syscall.SysProcAttr { return nil }
