package blobfs

import "encoding/binary"

// FUSE operations that the server knows, from include/uapi/linux/fuse.h.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opFlush       = 25
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opDestroy     = 38
	opBatchForget = 42
)

const (
	protocolMajor = 7
	protocolMinor = 31

	inHeaderSize  = 40
	outHeaderSize = 16

	// Flags of INIT.
	flagAsyncRead      = 1 << 0
	flagParallelDirops = 1 << 18
	flagMaxPages       = 1 << 22
	flagNoOpendir      = 1 << 24

	// Flags of OPEN: pages stay valid; no FLUSH at close, which a process that serves itself would wait for.
	openKeepCache = 1 << 1
	openNoFlush   = 1 << 5

	// maxRead is the largest read that is asked for at once.
	maxRead  = 1 << 20
	maxPages = maxRead / 4096
	// requestBuffer holds any request of a read-only server; the kernel insists on 8 KiB at least.
	requestBuffer = 64 << 10

	rootID = 1

	forever = 1 << 30 // seconds that names and attributes stay valid: they never change
)

var le = binary.LittleEndian

// inHeader is fuse_in_header: off 0 u32 length, 4 u32 opcode, 8 u64 unique, 16 u64 node id.
type inHeader struct {
	opcode         uint32
	unique, nodeID uint64
}

// decodeHeader splits a request. It reports false where the request is shorter than its header or says another length.
func decodeHeader(p []byte) (h inHeader, body []byte, ok bool) {
	if len(p) < inHeaderSize || int64(le.Uint32(p)) != int64(len(p)) {
		return h, nil, false
	}
	return inHeader{le.Uint32(p[4:]), le.Uint64(p[8:]), le.Uint64(p[16:])}, p[inHeaderSize:], true
}

// reply returns an answer with room for n bytes of body, which begins at outHeaderSize.
func reply(unique uint64, n int) []byte {
	p := make([]byte, outHeaderSize+n)
	putOutHeader(p, unique, 0)
	return p
}

// putOutHeader is fuse_out_header: off 0 u32 length, 4 i32 negative errno, 8 u64 unique.
func putOutHeader(p []byte, unique uint64, errno int32) {
	le.PutUint32(p, uint32(len(p)))
	le.PutUint32(p[4:], uint32(-errno))
	le.PutUint64(p[8:], unique)
}

// attr is what a file has: fuse_attr of 88 bytes.
type attr struct {
	ino, size uint64
	mode      uint32
}

const attrSize = 88

func (a attr) put(p []byte) {
	le.PutUint64(p, a.ino)
	le.PutUint64(p[8:], a.size)
	le.PutUint64(p[16:], (a.size+511)/512)
	le.PutUint32(p[60:], a.mode)
	le.PutUint32(p[64:], 1)    // nlink
	le.PutUint32(p[80:], 4096) // block size
}

// putEntry is fuse_entry_out: node id, generation, two validities of u64, two of u32, then the attributes.
func putEntry(p []byte, a attr) {
	le.PutUint64(p, a.ino)
	le.PutUint64(p[16:], forever)
	le.PutUint64(p[24:], forever)
	a.put(p[40:])
}

const entrySize = 40 + attrSize

// putAttr is fuse_attr_out: validity u64, u32, padding, then the attributes.
func putAttr(p []byte, a attr) {
	le.PutUint64(p, forever)
	a.put(p[16:])
}

// initReply answers INIT, or reports false for a kernel that is too old. body is fuse_init_in: u32 major, minor, read-ahead, flags.
func initReply(unique uint64, body []byte) ([]byte, bool) {
	if len(body) < 16 || le.Uint32(body) != protocolMajor || le.Uint32(body[4:]) < protocolMinor {
		return nil, false
	}
	p := reply(unique, 64)
	o := p[outHeaderSize:]
	le.PutUint32(o, protocolMajor)
	le.PutUint32(o[4:], protocolMinor)
	le.PutUint32(o[8:], maxRead) // read-ahead
	le.PutUint32(o[12:], le.Uint32(body[12:])&(flagAsyncRead|flagParallelDirops|flagMaxPages|flagNoOpendir))
	le.PutUint16(o[16:], 64)   // requests in the background
	le.PutUint16(o[18:], 48)   // congestion threshold
	le.PutUint32(o[20:], 4096) // largest write
	le.PutUint32(o[24:], 1)    // time granularity in ns
	le.PutUint16(o[28:], maxPages)
	return p, true
}
