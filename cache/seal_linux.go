package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A seal says that all of the data file was verified and on the disk when it had this change time, which no write leaves as it is.
//
//	blobs/KEY/seal   off 0, 8 bytes: magic "LZLSEALD"; off 8, u64: inode; off 16, u64: size; off 24, u64 and off 32, u64: seconds
//	                 and nanoseconds of the change time; off 40, u32: CRC32C of what is before
const (
	sealMagic = "LZLSEALD"
	sealSize  = 44
)

func (b *Blob) sealPath() string { return filepath.Join(filepath.Dir(b.dataPath), "seal") }

// sealOf returns the seal that fits the data file of now.
func (b *Blob) sealOf() ([]byte, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(b.data.Fd()), &s); err != nil {
		return nil, fmt.Errorf("stat %s: %w", b.dataPath, err)
	}
	p := append(make([]byte, 0, sealSize), sealMagic...)
	for _, v := range []int64{int64(s.Ino), s.Size, s.Ctim.Sec, s.Ctim.Nsec} {
		p = binary.LittleEndian.AppendUint64(p, uint64(v))
	}
	return binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli)), nil
}

// Sealed reports whether the data file was verified as a whole and has not been written to since.
func (b *Blob) Sealed() bool {
	want, err := b.sealOf()
	if err != nil || !b.Complete() {
		return false
	}
	got, err := os.ReadFile(b.sealPath())
	return err == nil && string(got) == string(want)
}

var errChanged = errors.New("the cached blob changed while it was verified")

// Seal puts the data file on the disk, calls verify, which reads all of it, and seals the file if that returns no error and
// nobody has written to it meanwhile.
func (b *Blob) Seal(verify func() error) error {
	if err := b.data.Sync(); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	before, err := b.sealOf()
	if err != nil {
		return err
	}
	if err := verify(); err != nil {
		return err
	}
	after, err := b.sealOf()
	if err != nil {
		return err
	}
	if string(before) != string(after) {
		return fmt.Errorf("cache: %s: %w", b.dataPath, errChanged)
	}
	if err := os.WriteFile(b.sealPath(), after, 0o600); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}
