// Command troupe is Puppet's server side as one binary.
package main

import (
	"context"
	"os"

	"troupe/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
}
