//go:build tools

// Package tools pins the Go programs that the tests drive; go.sum pins what they are made of.
package tools

import (
	_ "github.com/fsouza/fake-gcs-server"
	_ "github.com/fullstorydev/grpcurl/cmd/grpcurl"
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "github.com/versity/versitygw/cmd/versitygw"
)
