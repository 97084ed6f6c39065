// Command headrace looks after Headrace's tables in a database.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/headrace-go/headrace/internal/cli"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, cli.Env{
		Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Getenv: os.Getenv, Now: time.Now,
	})
}
