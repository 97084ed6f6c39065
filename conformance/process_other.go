//go:build !unix

package conformance

import (
	"errors"
	"os/exec"
)

// errProcesses says that processes can't be frozen here.
var errProcesses = errors.New("conformance: consumer processes need a Unix")

// Reexec works on Unix systems only.
func Reexec(ConsumerSpec) (Process, error) { return nil, errProcesses }

// StartProcess works on Unix systems only.
func StartProcess(*exec.Cmd) (Process, error) { return nil, errProcesses }
