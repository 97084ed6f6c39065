package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// commandGroup is a command that only holds others, and names them to whoever gives none of
// them.
func commandGroup(name, short string, commands ...*cobra.Command) *cobra.Command {
	names := make([]string, len(commands))
	for i, command := range commands {
		names[i] = command.Name()
	}
	wants := name + " needs a subcommand: " + name + " " + commands[0].Use
	if last := len(names) - 1; last > 0 {
		wants = fmt.Sprintf("%s needs one of %s or %s", name, strings.Join(names[:last], ", "), names[last])
	}
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q: %s; see %s --help", cell(args[0]), wants, cmd.CommandPath())
			}
			return fmt.Errorf("%s; see %s --help", wants, cmd.CommandPath())
		},
	}
	cmd.AddCommand(commands...)
	return cmd
}

// exactly wants as many arguments as Use names.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return countArguments(cmd, args, len(args) == n) }
}

// atLeast wants as many arguments or more.
func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return countArguments(cmd, args, len(args) >= n) }
}

func countArguments(cmd *cobra.Command, args []string, enough bool) error {
	if enough {
		return nil
	}
	use := cmd.Parent().CommandPath() + " " + cmd.Use
	if len(args) == 0 {
		return fmt.Errorf("%s needs arguments: %s", cmd.CommandPath(), use)
	}
	return fmt.Errorf("%s has other arguments, not %s: %s", cmd.CommandPath(), plural(int64(len(args)), "argument"), use)
}
