package convert_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// Wherever the image comes from and goes to, with any number of jobs, with and without a record, the result is the same.
func TestStores(t *testing.T) {
	t.Parallel()
	edge := imagetest.Edge(t)
	r := newRegistry(t, registrytest.Options{})
	sources := []string{layout(t, edge), archiveOf(t, edge), r.host + "/edge:v1"}
	put(t, edge, sources[2])
	var first digest.Digest
	for i, from := range sources {
		for k, to := range []string{
			"oci:" + filepath.Join(t.TempDir(), "new") + ":made", "oci-archive:" + filepath.Join(t.TempDir(), "made.tar") + ":made",
			fmt.Sprintf("%s/from%d:made", r.host, i),
		} {
			known := &memoryRecord{}
			for n, opt := range []convert.Options{{Jobs: 1}, {Jobs: 2, Record: known}, {Jobs: 1, Record: known}} {
				res := mustRun(t, from, to, opt)
				tagged, err := resolve(t, to)
				if err != nil || tagged.Digest != res.Tagged[0].Digest {
					t.Fatalf("%s to %s: names %s, %v", from, to, tagged.Digest, err)
				}
				if first == "" {
					first = tagged.Digest
				}
				if tagged.Digest != first {
					t.Errorf("%s to %s with %+v: %s instead of %s", from, to, opt, tagged.Digest, first)
				}
				reused := res.Images[0].Layers[0].Reused
				// An archive is written anew, and so has nothing to reuse.
				if want := n == 2 && k != 1; reused != want {
					t.Errorf("%s to %s, run %d: reused: %t", from, to, n, reused)
				}
			}
			equal(t, from, to, "linux/amd64")
		}
	}
}

// Archives go through pipes.
func TestArchiveStream(t *testing.T) {
	t.Parallel()
	edge := imagetest.Edge(t)
	file := parse(t, archiveOf(t, edge)).Path
	want := mustRun(t, "oci-archive:"+file+":v1", "oci:"+t.TempDir()+":made", convert.Options{}).Tagged[0].Digest
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out bytes.Buffer
	o := options()
	o.Stdin, o.Stdout, o.TempDir = in, &out, t.TempDir()
	src, err := store.OpenSource(t.Context(), parse(t, "oci-archive:-"), o)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dest, err := store.OpenTarget(t.Context(), parse(t, "oci-archive:-:made"), o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = convert.Convert(t.Context(), src, []convert.Output{{Writer: writer(t), Target: dest}}, convert.Options{})
	if err := errors.Join(err, dest.Close()); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "made.tar")
	if err := os.WriteFile(made, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := resolve(t, "oci-archive:"+made+":made"); err != nil || d.Digest != want {
		t.Errorf("%s, %v instead of %s", d.Digest, err, want)
	}
	equal(t, "oci-archive:"+file+":v1", "oci-archive:"+made+":made", "linux/amd64")
	if left, err := os.ReadDir(o.TempDir); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// What docker save wrote before version 25: plain layers and manifest.json.
func TestDockerArchive(t *testing.T) {
	t.Parallel()
	edge := imagetest.Edge(t)
	file := filepath.Join(t.TempDir(), "saved.tar")
	var saved bytes.Buffer
	w := tar.NewWriter(&saved)
	add := func(name string, p []byte) {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(p)), Typeflag: tar.TypeReg}), write(w, p)); err != nil {
			t.Fatal(err)
		}
	}
	config := map[string]any{"os": "linux", "architecture": "amd64"}
	var names []string
	var ids []digest.Digest
	for i, l := range edge.Layers {
		names = append(names, fmt.Sprintf("%d/layer.tar", i))
		add(names[i], l.Tar)
		ids = append(ids, digest.FromBytes(l.Tar))
	}
	config["rootfs"] = map[string]any{"type": "layers", "diff_ids": ids}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	add("config.json", raw)
	list, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{"edge:v1"}, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	add("manifest.json", list)
	if err := errors.Join(w.Close(), os.WriteFile(file, saved.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	mustRun(t, "docker-archive:"+file, to, convert.Options{})
	// The files are those of the image that the archive was made of.
	equal(t, layout(t, edge), to, "linux/amd64")
}

func write(w *tar.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}

// Several formats' outputs come from one pass; here the same format twice.
func TestTwoOutputs(t *testing.T) {
	t.Parallel()
	from := layout(t, imagetest.Edge(t))
	src := openSource(t, from)
	refs := []string{"oci:" + filepath.Join(t.TempDir(), "a") + ":made", "oci:" + filepath.Join(t.TempDir(), "b") + ":made"}
	var outputs []convert.Output
	for i, ref := range refs {
		w, err := nydus.NewWriter(nydus.Options{ChunkSize: 4096 << i})
		if err != nil {
			t.Fatal(err)
		}
		outputs = append(outputs, convert.Output{Writer: w, Target: openTarget(t, ref)})
	}
	res, err := convert.Convert(t.Context(), src, outputs, convert.Options{})
	for _, o := range outputs {
		err = errors.Join(err, o.Target.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Tagged) != 2 || len(res.Images) != 2 || res.Tagged[0].Digest == res.Tagged[1].Digest {
		t.Errorf("%+v", res.Tagged)
	}
	for _, ref := range refs {
		equal(t, from, ref, "linux/amd64")
	}
}

// What --check does: an image that is not what its source is gets no name.
func TestCheckBeforeTag(t *testing.T) {
	t.Parallel()
	from := layout(t, imagetest.Edge(t))
	for _, attach := range []convert.Attach{convert.AttachTag, convert.AttachIndex, convert.AttachReferrer} {
		t.Run(string(attach), func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registrytest.Options{})
			to := r.host + "/checked:made"
			opt := convert.Options{Attach: attach, BeforeTag: checkBeforeTag(t, from)}
			_, err := run(t.Context(), t, from, to, opt, func(d store.Target) store.Target { return &flipping{Target: d} })
			if err == nil {
				t.Fatal("damage passes")
			}
			untagged(t, to)
			// Not even a referrer is seen.
			if refs, err := openSource(t, to).Referrers(t.Context(), imagetest.Edge(t).Desc, ""); err != nil && !errors.Is(err, store.ErrNotFound) || len(refs) > 0 {
				t.Errorf("referrers %v, %v", refs, err)
			}
			if _, err := run(t.Context(), t, from, to, opt, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := resolve(t, to); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestChecksWhatIsCompared makes sure that the differences are found which only a comparison with the source can find: a
// converter that makes an image of other files.
func TestChecksWhatIsCompared(t *testing.T) {
	t.Parallel()
	from := layout(t, imagetest.Edge(t))
	other := layout(t, small(t, amd64, "other"))
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	_, err := run(t.Context(), t, other, to, convert.Options{BeforeTag: checkBeforeTag(t, from)}, nil)
	if !errors.Is(err, errDiffers) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(parse(t, to).Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layout stays: %v", err)
	}
}
