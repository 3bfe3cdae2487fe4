package imagetest

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Header lays out one tar header block by hand and sets its checksum. magic is "ustar\x0000", "ustar  \x00" or "".
type Header struct {
	Name, Link  string
	Mode, Size  int64
	UID, GID    int64
	Mtime       int64
	Type        byte
	Magic       string
	Change      func(block []byte) // before the checksum; may be nil
	BadChecksum bool
}

// Magics of tar headers.
const (
	MagicPOSIX = "ustar\x0000"
	MagicGNU   = "ustar  \x00"
)

// Block returns the header's 512 bytes.
func (h Header) Block() []byte {
	b := make([]byte, 512)
	copy(b, h.Name)
	octal := func(off, size int, v int64) { copy(b[off:], fmt.Sprintf("%0*o", size-1, v)) }
	octal(100, 8, h.Mode)
	octal(108, 8, h.UID)
	octal(116, 8, h.GID)
	octal(124, 12, h.Size)
	octal(136, 12, h.Mtime)
	b[156] = h.Type
	copy(b[157:257], h.Link)
	copy(b[257:], h.Magic)
	if h.Change != nil {
		h.Change(b)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	if h.BadChecksum {
		sum++
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Padded appends zeros up to a whole block.
func Padded(p []byte) []byte { return append(slices.Clip(p), make([]byte, -len(p)&511)...) }

// Extension is an entry whose content changes the next one: 'x' and 'g' with PAX records, 'L' and 'K' with a name.
func Extension(kind byte, content []byte) []byte {
	h := Header{Name: "././@LongLink", Size: int64(len(content)), Type: kind, Magic: MagicGNU}
	if kind == 'x' || kind == 'g' {
		h.Name, h.Magic = "PaxHeaders/extension", MagicPOSIX
	}
	return slices.Concat(h.Block(), Padded(content))
}

// Records writes PAX records: key, value, key, value.
func Records(keysAndValues ...string) []byte {
	var out []byte
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		rest := " " + keysAndValues[i] + "=" + keysAndValues[i+1] + "\n"
		n := len(rest)
		for len(strconv.Itoa(n))+len(rest) != n {
			n = len(strconv.Itoa(n)) + len(rest)
		}
		out = append(out, strconv.Itoa(n)+rest...)
	}
	return out
}

// SparseFormat is one of the ways in which GNU tar writes files with holes.
type SparseFormat string

// The formats of sparse files.
const (
	SparseOld SparseFormat = "old"
	Sparse00  SparseFormat = "0.0"
	Sparse01  SparseFormat = "0.1"
	Sparse10  SparseFormat = "1.0"
)

// SparseFormats has all of them.
var SparseFormats = []SparseFormat{SparseOld, Sparse00, Sparse01, Sparse10}

// Piece is a part of a sparse file that is not a hole.
type Piece struct {
	Off  int64
	Data string
}

// Sparse is a regular file of the given size, 0644, whose pieces stand between holes.
func Sparse(tb testing.TB, name string, format SparseFormat, size int64, pieces ...Piece) Item {
	tb.Helper()
	// GNU tar marks the end of a file that ends in a hole, or is nothing else, by an empty piece.
	if k := len(pieces); k == 0 || pieces[k-1].Off+int64(len(pieces[k-1].Data)) != size {
		pieces = append(slices.Clip(pieces), Piece{Off: size})
	}
	var data []byte
	var numbers []string
	for _, p := range pieces {
		data = append(data, p.Data...)
		numbers = append(numbers, strconv.FormatInt(p.Off, 10), strconv.Itoa(len(p.Data)))
	}
	h := Header{Name: name, Mode: 0o644, Mtime: Time, Size: int64(len(data)), Type: '0', Magic: MagicPOSIX}
	realSize := strconv.FormatInt(size, 10)
	switch format {
	case SparseOld:
		return Raw(oldSparse(h, size, pieces, data))
	case Sparse00:
		records := []string{"GNU.sparse.size", realSize, "GNU.sparse.numblocks", strconv.Itoa(len(pieces))}
		for i := 0; i < len(numbers); i += 2 {
			records = append(records, "GNU.sparse.offset", numbers[i], "GNU.sparse.numbytes", numbers[i+1])
		}
		return Raw(slices.Concat(Extension('x', Records(records...)), h.Block(), Padded(data)))
	case Sparse01:
		h.Name = "GNUSparseFile.0/x"
		return Raw(slices.Concat(Extension('x', Records("GNU.sparse.size", realSize, "GNU.sparse.numblocks", strconv.Itoa(len(pieces)),
			"GNU.sparse.name", name, "GNU.sparse.map", strings.Join(numbers, ","))), h.Block(), Padded(data)))
	case Sparse10:
		h.Name = "GNUSparseFile.0/x"
		lines := strings.Join(append([]string{strconv.Itoa(len(pieces))}, numbers...), "\n") + "\n"
		data = append(Padded([]byte(lines)), data...)
		h.Size = int64(len(data))
		return Raw(slices.Concat(Extension('x', Records("GNU.sparse.major", "1", "GNU.sparse.minor", "0",
			"GNU.sparse.name", name, "GNU.sparse.realsize", realSize)), h.Block(), Padded(data)))
	}
	tb.Fatalf("sparse format %q", format)
	return Item{}
}

// oldSparse writes the map into the header and blocks behind it.
func oldSparse(h Header, size int64, pieces []Piece, data []byte) []byte {
	h.Type, h.Magic = 'S', MagicGNU
	put := func(b []byte, pieces []Piece) {
		for i, p := range pieces {
			copy(b[24*i:], fmt.Sprintf("%011o\x00%011o", p.Off, len(p.Data)))
		}
	}
	first := pieces[:min(4, len(pieces))]
	rest := pieces[len(first):]
	h.Change = func(b []byte) {
		put(b[386:], first)
		if len(rest) > 0 {
			b[482] = 1
		}
		copy(b[483:], fmt.Sprintf("%011o", size))
	}
	var out bytes.Buffer
	out.Write(h.Block())
	for len(rest) > 0 {
		b := make([]byte, 512)
		next := rest[:min(21, len(rest))]
		rest = rest[len(next):]
		put(b, next)
		if len(rest) > 0 {
			b[504] = 1
		}
		out.Write(b)
	}
	out.Write(Padded(data))
	return out.Bytes()
}
