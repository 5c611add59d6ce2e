package main

import (
	"os"
	"testing"

	"udrouter/integration/wire"
)

func TestMain(m *testing.M) { os.Exit(wire.Main(m)) }
