//go:build !unix

package nydusimage

import (
	"errors"
	"fmt"
	"os"
)

type pipe struct{ path string }

func openPipe(path string) *pipe { return &pipe{path} }

func (p *pipe) wait() (*os.File, error) {
	return nil, fmt.Errorf("write into the pipe %s: %w", p.path, errors.ErrUnsupported)
}

func (p *pipe) giveUp() {}
