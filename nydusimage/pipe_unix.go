//go:build unix

package nydusimage

import (
	"fmt"
	"os"
	"syscall"
)

// pipe is a named pipe, or a device, that is being opened for writing. That lasts until somebody opens it for reading, who may
// first want to see us read our source; so it happens beside that.
type pipe struct {
	path   string
	opened chan struct{}
	file   *os.File
	err    error
}

func openPipe(path string) *pipe {
	p := &pipe{path: path, opened: make(chan struct{})}
	go func() {
		defer close(p.opened)
		p.file, p.err = os.OpenFile(path, os.O_WRONLY, 0)
	}()
	return p
}

// wait returns the open file.
func (p *pipe) wait() (*os.File, error) {
	<-p.opened
	if p.err != nil {
		return nil, fmt.Errorf("open %s: %w", p.path, p.err)
	}
	return p.file, nil
}

// giveUp ends the opening, or writing, and closes the file, so that its reader sees the end. It may be called at any time.
func (p *pipe) giveUp() {
	select {
	case <-p.opened:
	default:
		// A reader of our own lets the opening return.
		r, err := os.OpenFile(p.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return // the pipe is gone: nobody will open it
		}
		defer func() { _ = r.Close() }()
		<-p.opened
	}
	if p.file != nil {
		_ = p.file.Close() // nothing of it is kept
	}
}
