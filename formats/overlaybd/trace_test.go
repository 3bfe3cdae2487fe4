package overlaybd

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// recorded makes a trace of reads of so many bytes, one in each layer.
func recorded(sizes ...uint64) []byte {
	le := binary.LittleEndian
	var records []byte
	for i, n := range sizes {
		records = append(records, 'R', 0, 0, 0)
		records = le.AppendUint32(records, uint32(i))
		records = le.AppendUint64(records, n)
		records = le.AppendUint64(records, uint64(4096*i))
	}
	p := le.AppendUint32(nil, 3270449184)
	p = le.AppendUint64(le.AppendUint32(p, 0), uint64(len(records)))
	p = le.AppendUint32(le.AppendUint32(p, zfile.CRC(0, records)), 0)
	return append(p, records...)
}

func TestCheckTrace(t *testing.T) {
	t.Parallel()
	good := recorded(512, 1<<20)
	if err := errors.Join(CheckTrace(good, 2), CheckTrace(good, 0), CheckTrace(recorded(), 1)); err != nil {
		t.Error(err)
	}
	for name, p := range map[string][]byte{
		"nothing": nil, "cut": good[:len(good)-1], "a record less": good[:len(good)-traceRecord], "too long a read": recorded(1<<20 + 1), "paths": []byte("/etc/passwd\n/bin/sh\n/usr/bin\n"),
	} {
		if err := CheckTrace(p, 2); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckTrace(good, 1); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("a layer that there is not: %v", err)
	}
	for i := range good {
		if i >= 4 && i < 8 || i >= 20 && i < 24 {
			continue // filling
		}
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x10
		if err := CheckTrace(bad, 2); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("byte %d turned: %v", i, err)
		}
	}
}
