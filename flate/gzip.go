package flate

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Flags of a gzip member's header (RFC 1952, 2.3.1).
const (
	gzipHeaderCRC = 1 << 1
	gzipExtra     = 1 << 2
	gzipName      = 1 << 3
	gzipComment   = 1 << 4
	gzipReserved  = 0xe0
)

// gzipReader decodes the members of a gzip stream one after the other.
type gzipReader struct {
	d       *inflater
	member  int // number of the current one, from 0
	inside  bool
	crc     uint32 // of the member up to here
	size    uint32 // modulo 2^32
	decoded int64  // bytes of all members
	err     error  // sticky
	resumed bool   // the current member began before the input, so that its checksum is not known
}

func newGzipReader(in *input) *gzipReader { return &gzipReader{d: newInflater(in)} }

// next returns the next decoded bytes, valid until the next call, and io.EOF at the end.
func (g *gzipReader) next() ([]byte, error) {
	if g.d.trace != nil {
		g.d.trace.begin()
	}
	for g.err == nil {
		if !g.inside {
			g.err = g.begin()
			continue
		}
		p, err := g.d.next()
		if err != nil {
			g.err = g.wrap(err)
			break
		}
		g.crc = crc32.Update(g.crc, crc32.IEEETable, p)
		g.size += uint32(len(p))
		g.decoded += int64(len(p))
		if g.d.state == stateEnd {
			g.err = g.trailer()
			if g.err != nil {
				break // bytes with a wrong checksum are not handed out
			}
		}
		if len(p) > 0 {
			if g.d.trace != nil {
				g.d.trace.end(len(p))
			}
			return p, nil
		}
	}
	return nil, g.err
}

func (g *gzipReader) wrap(err error) error {
	return fmt.Errorf("gzip member %d, at %d compressed and %d decoded bytes: %w", g.member, g.d.in.off+int64(g.d.in.pos), g.decoded, err)
}

// errReserved is what RFC 1952, 2.3.1.2, demands.
var errReserved = corrupt("reserved flags in the gzip header")

// begin begins a member, or finds that there is none: zeros may be behind the last member, as gzip(1)
// accepts them, but nothing else. It returns io.EOF at the end.
func (g *gzipReader) begin() error {
	in := g.d.in
	in.fill(1)
	if g.member > 0 {
		if in.pos == in.end {
			return g.end()
		}
		if in.buf[in.pos] == 0 {
			return g.padding()
		}
	}
	if err := g.header(); err != nil {
		return g.wrap(err)
	}
	g.inside, g.crc, g.size = true, 0, 0
	if g.d.trace != nil {
		g.d.trace.beginMember(g.member)
	}
	return nil
}

// header reads a member's header.
func (g *gzipReader) header() error {
	crc := uint32(0)
	var head [10]byte
	if err := g.bytes(head[:], &crc); err != nil {
		return err
	}
	if head[0] != 0x1f || head[1] != 0x8b {
		if g.member > 0 {
			return corrupt("bytes behind the last member that are neither a member nor zeros")
		}
		return corrupt("no gzip header")
	}
	flags := head[3]
	if head[2] != 8 {
		return corrupt("unknown method in the gzip header")
	}
	if flags&gzipReserved != 0 {
		return errReserved
	}
	if err := g.optional(flags, &crc); err != nil {
		return err
	}
	g.d.reset()
	return nil
}

// optional reads the parts of a header that the flags announce.
func (g *gzipReader) optional(flags byte, crc *uint32) error {
	var two [2]byte
	if flags&gzipExtra != 0 {
		if err := g.bytes(two[:], crc); err != nil {
			return err
		}
		var one [1]byte
		for range le.Uint16(two[:]) {
			if err := g.bytes(one[:], crc); err != nil {
				return err
			}
		}
	}
	for _, flag := range [...]byte{gzipName, gzipComment} {
		if flags&flag == 0 {
			continue
		}
		for one := [1]byte{1}; one[0] != 0; {
			if err := g.bytes(one[:], crc); err != nil {
				return err
			}
		}
	}
	if flags&gzipHeaderCRC != 0 {
		want := uint16(*crc)
		if err := g.bytes(two[:], crc); err != nil {
			return err
		}
		if le.Uint16(two[:]) != want {
			return corrupt("checksum of the gzip header")
		}
	}
	return nil
}

// bytes reads len(p) bytes of a header and adds them to the checksum.
func (g *gzipReader) bytes(p []byte, crc *uint32) error {
	if _, err := io.ReadFull(g.d.in, p); err != nil {
		return g.d.cut()
	}
	*crc = crc32.Update(*crc, crc32.IEEETable, p)
	return nil
}

// trailer checks the end of a member.
func (g *gzipReader) trailer() error {
	g.inside = false
	var tail [8]byte
	unused := uint32(0)
	if err := g.bytes(tail[:], &unused); err != nil {
		return g.wrap(err)
	}
	if g.resumed {
		g.resumed = false
		g.member++
		return nil
	}
	if le.Uint32(tail[:]) != g.crc {
		return g.wrap(corrupt("checksum of the content"))
	}
	if le.Uint32(tail[4:]) != g.size {
		return g.wrap(corrupt("size of the content"))
	}
	g.member++
	return nil
}

// padding passes over the zeros at the end.
func (g *gzipReader) padding() error {
	in := g.d.in
	for {
		in.fill(1)
		if in.pos == in.end {
			return g.end()
		}
		for _, b := range in.buf[in.pos:in.end] {
			if b != 0 {
				return g.wrap(corrupt("bytes behind the padding"))
			}
			in.pos++
		}
	}
}

// end is the error where the input ends between two members.
func (g *gzipReader) end() error {
	if errors.Is(g.d.in.err, io.EOF) {
		return io.EOF
	}
	return g.wrap(g.d.in.err)
}
