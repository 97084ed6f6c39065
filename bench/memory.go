package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/headrace-go/headrace/bench/relay"
)

// Memory is measured in a process of its own, so that nothing else counts.

const millionRows = 1_000_000

func relayMemory() comparison {
	return comparison{
		name: "relay-memory-1m", what: "Peak resident memory of a process that relays 1,000,000 rows of 256 B",
		unit: "MB", rounds: 1, op: "<=", bar: 100,
		ours: side{"headrace", "MB", func(ctx context.Context, env servers) (float64, error) {
			return childPeak(ctx, "relay", func(schema string) error {
				return relaySetting(env).Backlog(ctx, schema, millionRows)
			}, env)
		}},
	}
}

func purgeMemory() comparison {
	return comparison{
		name: "purge-memory-1m", what: "Peak resident memory of a process that purges 1,000,000 inbox rows",
		unit: "MB", rounds: 1, op: "<=", bar: 100,
		ours: side{"headrace", "MB", func(ctx context.Context, env servers) (float64, error) {
			return childPeak(ctx, "purge", func(schema string) error {
				return relaySetting(env).Seen(ctx, schema, millionRows)
			}, env)
		}},
	}
}

// childPeak prepares a schema, lets a child of this program do the work in it,
// and returns the child's peak in MB.
func childPeak(ctx context.Context, job string, prepare func(schema string) error, env servers) (float64, error) {
	schema := relay.NewSchemaName()
	defer relaySetting(env).DropSchema(context.WithoutCancel(ctx), schema)
	if err := prepare(schema); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "-child", job+"/"+schema)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("child %s: %w", job, err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

func runChild(ctx context.Context, env servers, child string) error {
	job, schema, _ := strings.Cut(child, "/")
	var err error
	switch job {
	case "relay":
		err = relaySetting(env).RelayAll(ctx, schema)
	case "purge":
		err = relaySetting(env).PurgeAll(ctx, schema)
	default:
		err = fmt.Errorf("no job %q", job)
	}
	if err != nil {
		return err
	}
	peak, err := peakMB()
	if err != nil {
		return err
	}
	fmt.Printf("%.1f\n", peak)
	return nil
}

// peakMB reads the kernel's high-water mark of this process's resident memory.
func peakMB() (float64, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer status.Close()
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "VmHWM:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in /proc/self/status: %w", lines.Err())
}
