//go:build !amd64

package integration

import (
	"errors"
	"io"
)

const injectInto = "UDROUTER_TEST_INJECT"

func obey(string, io.Reader, io.Writer) error {
	return errors.New("system calls are made to fail on amd64 alone")
}
