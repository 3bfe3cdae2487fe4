package nydus

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"time"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// A layer's content goes through jobs: pieces of up to jobSize bytes and jobChunks chunks. Every job has a goroutine
// while it is worked on, and these hold CPU slots, which they get in the order of the jobs. They digest their
// chunks, wait until the job before has decided which of its chunks are new, decide that for theirs, compress the
// new ones and give the slot back. One goroutine writes finished jobs in order.
//
// What is written depends on the order of the content only, not on the number of cores. A job with a slot waits only
// for an earlier one, which has a slot too, so no wait is in a circle.
//
// Memory: at most jobs(cpu) jobs exist for a layer, each with two buffers of max(jobSize, chunk size) bytes.
const (
	jobSize   = 1 << 20
	jobChunks = 256
	// batchChunks is jobChunks where chunks share batches, which end where jobs do.
	batchChunks = 4096
)

// jobs returns how many jobs of a layer may be on their way.
func jobs(cpu *formats.CPU) int { return cpu.Size() + 2 }

// job is a run of chunks.
type job struct {
	plain   []byte
	ends    []int  // of the chunks in plain
	single  []bool // which of them are their whole file, and small enough for a batch
	matches []flate.Match
	matched []int // ends of the chunks' matches in matches
	sums    [][nydusblob.DigestSize]byte
	crcs    []uint32      // where they are wanted
	fresh   []freshChunk  // those that are not in the layer yet
	stored  []byte        // of these
	batch   []byte        // the plain form of a batch
	decided chan struct{} // closed when fresh is known
	done    chan struct{} // closed when stored is there
}

// freshChunk is a chunk that is stored.
type freshChunk struct {
	at    int   // in the job
	plain int64 // its place in the blob's plain space
	end   int   // of its stored form in job.stored; of a batch's in all of its members
	raw   bool  // not compressed
	batch bool  // whether it shares a batch with the next of them that has the same end
}

func (j *job) chunk(i int) []byte {
	from := 0
	if i > 0 {
		from = j.ends[i-1]
	}
	return j.plain[from:j.ends[i]]
}

// matchesOf returns the matches of a chunk.
func (j *job) matchesOf(i int) []flate.Match {
	from := 0
	if i > 0 {
		from = j.matched[i-1]
	}
	return j.matches[from:j.matched[i]]
}

func (j *job) reset() {
	j.matches, j.matched = j.matches[:0], j.matched[:0]
	j.plain, j.ends, j.fresh, j.stored = j.plain[:0], j.ends[:0], j.fresh[:0], j.stored[:0]
	j.single, j.sums, j.crcs = j.single[:0], j.sums[:0], j.crcs[:0]
	j.decided, j.done = make(chan struct{}), make(chan struct{})
}

// chunker cuts, deduplicates, compresses and writes the content of a layer.
type chunker struct {
	ctx    context.Context //nolint:containedctx // of one layer's conversion, which it bounds
	cancel context.CancelCauseFunc
	set    *settings
	enc    *nydusblob.Encoder
	cipher *nydusblob.Cipher // nil without encryption
	pool   *sync.Pool
	out    io.Writer
	stream *flate.Reader // has the matches of the content; nil where they are not asked for

	current *job
	most    int           // chunks of a job
	single  bool          // whether the open file may go into a batch
	chunk   int           // bytes that the open chunk still wants
	file    int64         // bytes that the open file still wants
	count   int           // chunks so far, duplicates among them
	permits chan struct{} // one for each job on its way
	queue   chan *job     // to the dispatcher
	ordered chan *job     // to the writer
	running sync.WaitGroup
	stopped bool

	// Owned by the job whose turn it is to decide.
	known   knownChunks
	refs    []uint32 // by number of the chunk in the layer: its index in the blob, and above refBlobShift 1 + the dictionary's blob
	crcs    []uint32 // by index; where they are wanted
	plainAt int64    // end of the blob's plain space
	deduped int64
	saved   int64 // bytes of deduplicated chunks
	// Owned by the writer.
	table  nydusblob.Table
	offset int64

	mu  sync.Mutex // guards cpu
	cpu map[string]float64
}

// Parts of a reference to a chunk.
const (
	refBlobShift = 24
	refIndexMask = 1<<refBlobShift - 1
)

// newChunker returns a chunker that writes to out. Without out it only digests and deduplicates.
func newChunker(ctx context.Context, w *Writer, out io.Writer) *chunker {
	c := &chunker{set: &w.set, enc: w.enc, pool: &w.pool, out: out,
		permits: make(chan struct{}, jobs(w.set.cpu)), queue: make(chan *job, jobs(w.set.cpu)), ordered: make(chan *job, jobs(w.set.cpu))}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.known.seed = maphash.MakeSeed()
	c.most = jobChunks
	if w.set.batchSize > 0 {
		c.most = batchChunks
	}
	if w.set.version2() {
		c.table = *nydusblob.NewTableV2()
	}
	c.cpu = make(map[string]float64)
	c.running.Add(2)
	go c.dispatch()
	go c.write()
	return c
}

// begin begins a file of size bytes.
func (c *chunker) begin(size int64) error {
	if c.file != 0 {
		return fmt.Errorf("%d bytes of a file are missing: %w", c.file, io.ErrUnexpectedEOF)
	}
	c.file = size
	c.single = size <= int64(c.set.chunkSize) && size < int64(c.set.batchSize/2)
	return nil
}

// add takes the next bytes of the file, which lie at an offset of the stream; -1 where they do not.
func (c *chunker) add(p []byte, at int64) error {
	if int64(len(p)) > c.file {
		return fmt.Errorf("%d bytes more than the file has: %w", int64(len(p))-c.file, blob.ErrCorrupt)
	}
	for len(p) > 0 {
		if c.chunk == 0 {
			if err := c.open(int(min(c.file, int64(c.set.chunkSize)))); err != nil {
				return err
			}
		}
		j := c.current
		n := min(c.chunk, len(p))
		if c.stream != nil && at >= 0 {
			c.addMatches(at, int64(n))
			at += int64(n)
		}
		j.plain = append(j.plain, p[:n]...)
		p = p[n:]
		c.chunk -= n
		c.file -= int64(n)
		if c.chunk == 0 {
			j.ends, j.single = append(j.ends, len(j.plain)), append(j.single, c.single)
			j.matched = append(j.matched, len(j.matches))
			c.count++
		}
	}
	return nil
}

// addMatches takes the matches of the next n bytes of the open chunk.
func (c *chunker) addMatches(at, n int64) {
	j := c.current
	begin := len(j.plain) // of those bytes in the chunk
	if k := len(j.ends); k > 0 {
		begin -= j.ends[k-1]
	}
	known := len(j.matches)
	j.matches = c.stream.AppendMatches(j.matches, at, n)
	for i := known; i < len(j.matches); i++ {
		j.matches[i].At += uint32(begin)
	}
}

// open begins a chunk of n bytes, in the current job if it has room.
func (c *chunker) open(n int) error {
	if c.count >= nydusblob.MaxChunks {
		return fmt.Errorf("more than %d chunks in a layer: %w", nydusblob.MaxChunks, blob.ErrUnsupported)
	}
	if j := c.current; j != nil && (len(j.plain)+n > jobSize || len(j.ends) == c.most) {
		if err := c.submit(); err != nil {
			return err
		}
	}
	if c.current == nil {
		select {
		case c.permits <- struct{}{}:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
		j, _ := c.pool.Get().(*job)
		if j == nil {
			j = &job{}
		}
		j.reset()
		c.current = j
	}
	if cap(c.current.plain) == 0 {
		c.current.plain = make([]byte, 0, max(jobSize, c.set.chunkSize))
	}
	c.chunk = n
	return nil
}

// submit sends the current job on its way.
func (c *chunker) submit() error {
	j := c.current
	c.current = nil
	// Both queues have room for all jobs that can exist.
	c.queue <- j
	c.ordered <- j
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

// finish waits until everything is written.
func (c *chunker) finish() error {
	err := c.begin(0)
	if err == nil && c.current != nil {
		err = c.submit()
	}
	if err != nil {
		c.cancel(err)
	}
	c.stop()
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

// stop waits for the goroutines, which come to their end after what has been submitted or when the context ends.
func (c *chunker) stop() {
	if !c.stopped {
		c.stopped = true
		close(c.queue)
		close(c.ordered)
	}
	c.running.Wait()
}

// abort ends all goroutines. It may be called at any time, also after finish.
func (c *chunker) abort() {
	c.cancel(context.Canceled)
	c.stop()
}

// dispatch gets a slot for each job in order, and starts it.
func (c *chunker) dispatch() {
	defer c.running.Done()
	before := make(chan struct{})
	close(before)
	for j := range c.queue {
		if err := c.set.cpu.Acquire(c.ctx); err != nil {
			c.cancel(err)
			return
		}
		c.running.Add(1)
		decided := j.decided // j may be over and in use again as soon as it runs
		go c.run(j, before)
		before = decided
	}
}

// run does the computing of a job.
func (c *chunker) run(j *job, before <-chan struct{}) {
	defer c.running.Done()
	defer c.set.cpu.Release()
	start := time.Now()
	for i := range j.ends {
		j.sums = append(j.sums, c.set.digester.Sum(j.chunk(i)))
		if c.wantsCRC() {
			j.crcs = append(j.crcs, nydusblob.CRC32C(j.chunk(i)))
		}
	}
	digest := time.Since(start)
	select {
	case <-before:
	case <-c.ctx.Done():
		return
	}
	c.decide(j)
	close(j.decided)
	start = time.Now()
	c.compress(j)
	compress := time.Since(start)
	close(j.done)
	c.spent("digest", digest)
	c.spent("compress", compress)
}

// spent counts time for a stage.
func (c *chunker) spent(stage string, d time.Duration) {
	c.mu.Lock()
	c.cpu[stage] += d.Seconds()
	c.mu.Unlock()
}

// wantsCRC reports whether the chunks' CRC32Cs are stored.
func (c *chunker) wantsCRC() bool { return c.set.builder != nil || c.set.version2() }

// decide gives every chunk of a job its place in the blob. Jobs come here in order.
func (c *chunker) decide(j *job) {
	for i := range j.ends {
		size := int64(len(j.chunk(i)))
		if ref, ok := c.set.dict.find(&j.sums[i], size); ok {
			c.refs = append(c.refs, ref)
			c.deduped++
			c.saved += size
			continue
		}
		index, fresh := c.known.put(&j.sums[i])
		c.refs = append(c.refs, index)
		if !fresh {
			c.deduped++
			c.saved += size
			continue
		}
		j.fresh = append(j.fresh, freshChunk{at: i, plain: c.plainAt})
		c.plainAt = align(c.plainAt + size)
		if c.wantsCRC() {
			c.crcs = append(c.crcs, j.crcs[i])
		}
	}
}

func align(n int64) int64 { return (n + nydusblob.Align - 1) &^ (nydusblob.Align - 1) }

// compress makes the stored form of a job's new chunks.
func (c *chunker) compress(j *job) {
	if len(j.fresh) == 0 {
		return
	}
	if c.out == nil {
		c.placePlain(j)
		return
	}
	if cap(j.stored) == 0 {
		// Room for what grows a little before it is given up.
		j.stored = make([]byte, 0, cap(j.plain)+cap(j.plain)/128+1024)
	}
	for i := 0; i < len(j.fresh); {
		n := c.inBatch(j, i)
		if n == 0 {
			f := &j.fresh[i]
			at := len(j.stored)
			j.stored = c.enc.AppendMatched(j.stored, j.chunk(f.at), j.matchesOf(f.at))
			f.raw = len(j.stored)-at == len(j.chunk(f.at))
			if c.cipher != nil {
				j.stored = c.cipher.Append(j.stored[:at], j.stored[at:])
			}
			f.end = len(j.stored)
			i++
			continue
		}
		j.batch = j.batch[:0]
		for _, f := range j.fresh[i : i+n] {
			j.batch = append(j.batch, j.chunk(f.at)...)
		}
		j.stored = c.enc.Append(j.stored, j.batch)
		for k := i; k < i+n; k++ {
			j.fresh[k].end, j.fresh[k].batch = len(j.stored), true
		}
		i += n
	}
}

// placePlain gives the new chunks of a job places as if they were stored as they are.
func (c *chunker) placePlain(j *job) {
	end := 0
	for i := range j.fresh {
		end += len(j.chunk(j.fresh[i].at))
		j.fresh[i].end = end
	}
}

// inBatch returns how many of the new chunks from i on share a batch; 0 if that one stands alone.
func (c *chunker) inBatch(j *job, i int) int {
	n := 0
	for size := 0; i+n < len(j.fresh) && j.single[j.fresh[i+n].at]; n++ {
		if size += len(j.chunk(j.fresh[i+n].at)); size >= c.set.batchSize {
			break
		}
	}
	return n
}

// write writes jobs in order.
func (c *chunker) write() {
	defer c.running.Done()
	for j := range c.ordered {
		select {
		case <-j.done:
		case <-c.ctx.Done():
			return
		}
		if c.out != nil {
			start := time.Now()
			if _, err := c.out.Write(j.stored); err != nil {
				c.cancel(err)
				return
			}
			c.spent("write", time.Since(start))
		}
		c.enter(j)
		c.pool.Put(j)
		<-c.permits
	}
}

// enter puts the new chunks of a job into the table.
func (c *chunker) enter(j *job) {
	from := 0
	for i := 0; i < len(j.fresh); {
		f := j.fresh[i]
		stored := blob.Range{Off: c.offset, Len: int64(f.end - from)}
		var plain []blob.Range
		for ; i < len(j.fresh) && j.fresh[i].end == f.end; i++ {
			plain = append(plain, blob.Range{Off: j.fresh[i].plain, Len: int64(len(j.chunk(j.fresh[i].at)))})
		}
		switch {
		case f.batch:
			c.table.AppendBatch(stored, plain)
		case c.set.version2():
			c.table.AppendV2(nydusblob.Entry{Plain: plain[0], Stored: stored, Compressed: !f.raw, Encrypted: c.cipher != nil, CRC32C: j.crcs[f.at]})
		default:
			c.table.Append(nydusblob.Entry{Plain: plain[0], Stored: stored})
		}
		c.offset += stored.Len
		from = f.end
	}
}

// knownChunks finds chunks by their digests. It is a table of indexes with open addressing, so that a layer of a
// million small files takes 40 to 48 bytes for each.
type knownChunks struct {
	seed  maphash.Seed // so that nobody can make up chunks that all want one place
	sums  []byte       // digests by index
	table []uint32     // index+1; 0 is free
}

// put returns the index of the chunk with that digest. One that was not known gets the next index.
func (k *knownChunks) put(sum *[nydusblob.DigestSize]byte) (index uint32, fresh bool) {
	n := len(k.sums) / nydusblob.DigestSize
	if n*2 >= len(k.table) {
		k.grow(max(1024, 2*len(k.table)))
	}
	slot := k.slot(sum[:])
	if i := k.table[slot]; i != 0 {
		return i - 1, false
	}
	k.table[slot] = uint32(n) + 1
	k.sums = append(k.sums, sum[:]...)
	return uint32(n), true
}

// slot returns where a digest is or belongs.
func (k *knownChunks) slot(sum []byte) uint64 {
	mask := uint64(len(k.table) - 1)
	for at := maphash.Bytes(k.seed, sum) & mask; ; at = (at + 1) & mask {
		i := k.table[at]
		if i == 0 || bytes.Equal(k.sums[(i-1)*nydusblob.DigestSize:][:nydusblob.DigestSize], sum) {
			return at
		}
	}
}

func (k *knownChunks) grow(n int) {
	k.table = make([]uint32, n)
	for i := 0; i*nydusblob.DigestSize < len(k.sums); i++ {
		k.table[k.slot(k.sums[i*nydusblob.DigestSize:][:nydusblob.DigestSize])] = uint32(i) + 1
	}
}
