// Command udrouter routes for untrusted guests of a rented server. Each subcommand has a file of its own and is a thin
// shell over a package.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"udrouter/router"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends what does not listen, such as the reading of a pipe
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintf(os.Stderr, "udrouter: %v\n", err)
	}
	tellFailure(err)
	os.Exit(1)
}

// tellFailure ends the wait of whoever has asked to be told when the router is ready (sd_notify(3)): start-stop-daemon would wait on.
func tellFailure(err error) {
	errno := syscall.EINVAL // the file's mistakes, and what is no call's error
	errors.As(err, &errno)
	_, _ = daemon.SdNotify(false, fmt.Sprintf("ERRNO=%d", errno)) // who is not there any more has been told by the status
}

// errSaid is a failure of which the user has been told already.
var errSaid = errors.New("failed")

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "udrouter",
		Short:         "A userspace router for untrusted guests of a rented server",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(runCommand(), upgradeCommand(), checkCommand(), testCommand(), importCommand(), explainCommand(), labCommand(), statusCommand(), reloadCommand(), flowsCommand(), neighboursCommand(), topCommand(), webCommand(), dropsCommand(), captureCommand(), doctorCommand(), vifCommand(), pidCommand(),
		versionCommand(), docsCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprintln(c.OutOrStdout(), "udrouter", router.Version)
			return nil
		},
	}
}
