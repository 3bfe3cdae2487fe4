package tarfs

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
)

// Fields of a header block (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format"):
//
//	off  size  field
//	0    100   name
//	100  8     mode       numbers are octal digits with spaces or NULs around them, or, with the first bit set,
//	108  8     uid        big-endian two's complement of the other bits
//	116  8     gid
//	124  12    size
//	136  12    mtime
//	148  8     checksum
//	156  1     type
//	157  100   link target
//	257  8     magic and version: "ustar\x0000" POSIX, "ustar  \x00" GNU, else Version 7
//	265  64    user and group name, which are not used
//	329  8     major device number
//	337  8     minor device number
//	345  155   prefix of the name, POSIX only; star (with "tar\x00" at 508) has 131 bytes
//
// and of GNU sparse files, 'S':
//
//	386  4*24  offset and size of pieces, 12 bytes each
//	482  1     not 0: extension blocks follow, of 21 pieces and this byte at 504
//	483  12    size with holes
type header [blockSize]byte

// Types of entries.
const (
	typeOldFile  = 0
	typeFile     = '0'
	typeHardlink = '1'
	typeSymlink  = '2'
	typeChar     = '3'
	typeBlock    = '4'
	typeDir      = '5'
	typeFIFO     = '6'
	typeContig   = '7'
	typePAX      = 'x'
	typeGlobal   = 'g'
	typeLongName = 'L'
	typeLongLink = 'K'
	typeSparse   = 'S'
)

const (
	checksumOff    = 148
	checksumLen    = 8
	sparseOff      = 386
	sparsePieces   = 4
	sparseMore     = 482
	sparseRealSize = 483
	extPieces      = 21
	extMore        = 504
	pieceSize      = 24
)

func (h *header) isZero() bool {
	for i := 0; i < blockSize; i += 8 {
		if binary.LittleEndian.Uint64(h[i:]) != 0 {
			return false
		}
	}
	return true
}

// checksumOK compares the stored sum of the header's bytes, with the field itself as spaces. Some old programs summed
// signed bytes.
func (h *header) checksumOK() bool {
	want, ok := number(h[checksumOff : checksumOff+checksumLen])
	if !ok {
		return false
	}
	// Four lanes of 16 bits hold the sums of 128 bytes each.
	const lanes = 0x00ff00ff00ff00ff
	var sum uint64
	high := 0
	for i := 0; i < blockSize; i += 8 {
		v := binary.LittleEndian.Uint64(h[i:])
		sum += v&lanes + v>>8&lanes
		high += bits.OnesCount64(v & 0x8080808080808080)
	}
	total := int64(sum&0xffff + sum>>16&0xffff + sum>>32&0xffff + sum>>48)
	for _, b := range h[checksumOff : checksumOff+checksumLen] {
		total += ' ' - int64(b)
		high -= int(b >> 7)
	}
	return total == want || total-int64(high)*256 == want
}

// number parses a number field. Fields without digits are 0.
func number(field []byte) (int64, bool) {
	if field[0]&0x80 != 0 {
		return binaryNumber(field)
	}
	i, end := 0, len(field)
	for i < end && (field[i] == ' ' || field[i] == 0) {
		i++
	}
	v := int64(0)
	for ; i < end && field[i] >= '0' && field[i] <= '7'; i++ { // at most 12 digits
		v = v<<3 | int64(field[i]-'0')
	}
	// What is behind a NUL does not count; spaces are left over by old programs.
	for ; i < end && field[i] != 0; i++ {
		if field[i] != ' ' {
			return 0, false
		}
	}
	return v, true
}

// binaryNumber parses a number of more than the digits have room for, as GNU and star write it.
func binaryNumber(field []byte) (int64, bool) {
	var invert byte
	if field[0]&0x40 != 0 {
		invert = 0xff
	}
	var v uint64
	for i, b := range field {
		b ^= invert
		if i == 0 {
			b &= 0x7f
		}
		if v>>56 != 0 {
			return 0, false
		}
		v = v<<8 | uint64(b)
	}
	if v>>63 != 0 {
		return 0, false
	}
	if invert != 0 {
		return ^int64(v), true
	}
	return int64(v), true
}

// text returns a field up to its first NUL.
func text(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

func (h *header) isPOSIX() bool { return string(h[257:263]) == "ustar\x00" }
func (h *header) isGNU() bool   { return string(h[257:265]) == "ustar  \x00" }

// name returns the name with its prefix.
func (h *header) name() string {
	if !h.isPOSIX() || h[345] == 0 {
		return text(h[:100])
	}
	prefix := h[345:500]
	if string(h[508:512]) == "tar\x00" {
		prefix = h[345:476]
	}
	return text(prefix) + "/" + text(h[:100])
}

// clean returns a path in the manner of [Entry.Name]. Absolute paths are those below the root.
func clean(path string) (string, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return "", ErrName
	}
	if path == "" {
		return "", nil
	}
	if cleaned, ok := cleanAlready(path); ok {
		return cleaned, checkNames(cleaned)
	}
	parts := make([]string, 0, 16)
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", ErrPath
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, part)
		}
	}
	cleaned := strings.Join(parts, "/")
	return cleaned, checkNames(cleaned)
}

// cleanAlready serves the usual paths without allocation: those with at most "./" or "/" in front and "/" behind.
func cleanAlready(path string) (string, bool) {
	if path[0] == '.' && len(path) > 1 && path[1] == '/' {
		path = path[2:]
	} else if path[0] == '/' {
		path = path[1:]
	}
	path = strings.TrimSuffix(path, "/")
	begin := true // of a component
	for i := range len(path) {
		c := path[i]
		// A component that begins with a dot may be "." or "..", or a usual name: let the slow way decide, except that
		// something else than a dot or slash follows.
		if begin && (c == '/' || c == '.' && (i+1 == len(path) || path[i+1] == '.' || path[i+1] == '/')) {
			return "", false
		}
		begin = c == '/'
	}
	return path, !begin || path == ""
}

// checkNames checks the lengths of a clean path and its components.
func checkNames(path string) error {
	if len(path) > MaxPath {
		return ErrName
	}
	begin := 0
	for begin < len(path) {
		n := strings.IndexByte(path[begin:], '/')
		if n < 0 {
			n = len(path) - begin
		}
		if n > maxName {
			return ErrName
		}
		begin += n + 1
	}
	return nil
}

// decimal parses a number of a PAX record.
func decimal(s string) (int64, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil
}
