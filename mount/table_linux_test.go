package mount

import (
	"slices"
	"strings"
	"testing"
)

func TestReadTable(t *testing.T) {
	t.Parallel()
	got, err := readTable(strings.NewReader(`36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:2 - ext3 /dev/ro\011ot rw
garbage
x 35 98:0 / / rw - ext3 y rw
37 36 0:5 / /b rw - fuse.lazuli lazuli rw,user_id=0
`))
	want := []Entry{{36, `/mnt 2\x`, "ext3", "/dev/ro\tot"}, {37, "/b", "fuse.lazuli", "lazuli"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
