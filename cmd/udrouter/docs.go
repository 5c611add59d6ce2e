package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"udrouter/router"
)

// docsCommand is for packagers: it writes the manual pages of each command and of router.hcl, the latter's reference in Markdown, and completions for shells.
func docsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "docs DIRECTORY", Short: "Write manual pages, the reference of router.hcl and completions of shells to a directory", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			root.InitDefaultCompletionCmd()
			root.DisableAutoGenTag = true
			now := time.Now()
			header := doc.GenManHeader{Section: "8", Source: "udrouter " + router.Version, Manual: "udrouter", Date: &now}
			if s, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok { // reproducible-builds.org: seconds since 1970, UTC
				seconds, err := strconv.ParseInt(s, 10, 64)
				if err != nil {
					return fmt.Errorf("reading SOURCE_DATE_EPOCH: %w", err)
				}
				date := time.Unix(seconds, 0).UTC()
				header.Date = &date
			}
			if err := doc.GenManTree(root, &header, args[0]); err != nil {
				return fmt.Errorf("writing manual pages: %w", err)
			}
			for name, text := range map[string][]byte{"router.hcl.5": configurationManual(header), "configuration.md": []byte(configurationPage())} {
				if err := os.WriteFile(filepath.Join(args[0], name), text, 0o644); err != nil {
					return fmt.Errorf("writing the reference of router.hcl: %w", err)
				}
			}
			for name, write := range map[string]func(string) error{
				"udrouter.bash": func(file string) error { return root.GenBashCompletionFileV2(file, true) },
				"_udrouter":     root.GenZshCompletionFile,
				"udrouter.fish": func(file string) error { return root.GenFishCompletionFile(file, true) },
			} {
				if err := write(filepath.Join(args[0], name)); err != nil {
					return fmt.Errorf("writing completions: %w", err)
				}
			}
			return nil
		},
	}
}
