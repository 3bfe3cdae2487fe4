package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/convertor"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/store"
)

func (c *convertorApp) run(cmd *cobra.Command, args []string) error {
	c.log.debug = c.verbose
	if err := c.prepare(args); err != nil {
		return err
	}
	registry, err := c.storeFlags()
	if err != nil {
		return err
	}
	formats, names, _ := c.engines()
	for _, format := range formats {
		c.log.infof("building [Overlaybd - %s] image...", map[string]string{overlaybd.Name: "Native", turbooci.Name: "Turbo OCIv1"}[format])
	}
	if err := c.convertAll(cmd.Context(), registry); err != nil {
		return fmt.Errorf("failed to build %s: %w", strings.Join(names, " and "), err)
	}
	for _, name := range names {
		c.log.infof("%s build finished", name)
	}
	return nil
}

// convertAll converts the image for all engines.
func (c *convertorApp) convertAll(ctx context.Context, registry *storeFlags) (err error) {
	work, err := convertor.OpenWorkDir(c.dir, c.dumpManifest, c.reserve)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	formats, _, tags := c.engines()
	source := "docker://" + c.repository + ":" + c.inputTag
	if c.inputTag == "" {
		source = "docker://" + c.repository + "@" + c.inputDigest
	}
	flags := &convertFlags{
		formats: formats, attach: string(convert.AttachTag), subject: c.referrer, fsVersion: 6, vsize: c.vsize, turboFS: []string{c.fsType},
		options: map[string]string{catalog.KeyMediaTypes: string(overlaybd.MediaTypesDocker)}, outputs: make(map[string]string),
		index: convert.IndexOptions{Always: true, Subject: c.referrer}, record: "none", tempDir: c.dir, onProgress: c.progress,
	}
	if c.oci {
		flags.options[catalog.KeyMediaTypes] = string(overlaybd.MediaTypesOCI)
	}
	if !c.mkfs {
		flags.options[catalog.KeyBaseLayer] = strconv.FormatBool(true)
	}
	if c.db != "" {
		flags.record = "mysql:" + c.db
	}
	for format, tag := range tags {
		flags.outputs[format] = "docker://" + c.repository + ":" + tag
	}
	flags.report = func(res *convert.Result) error {
		for o, d := range res.Tagged {
			c.log.infof("converted to %q, digest: %q", c.repository+":"+tags[formats[o]], d.Digest)
		}
		return work.Keep(ctx, res)
	}
	dest := *registry
	dest.openTarget = func(ctx context.Context, ref store.Ref, opts store.Options) (store.Target, error) {
		if c.noUpload {
			return work.Watch(convertor.NewNowhere(ref)), nil
		}
		t, err := store.OpenTarget(ctx, ref, opts)
		if err != nil {
			return nil, err
		}
		return work.Watch(t), nil
	}
	return c.convert(ctx, flags, source, "", registry, &dest)
}

// progress says which layers are done.
func (c *convertorApp) progress(p convert.Progress) {
	switch p.State {
	case convert.Converted:
		c.log.infof("layer %d converted (%s)", p.Layer, orDash(p.Platform))
	case convert.Reused:
		c.log.infof("layer %d was converted before (%s)", p.Layer, orDash(p.Platform))
	case convert.Converting:
		c.log.debugf("layer %d: %d of %d bytes (%s)", p.Layer, p.Done, p.Total, orDash(p.Platform))
	}
}

// convertorLog writes lines as the reference's logger does where standard error is no terminal.
type convertorLog struct {
	mu    sync.Mutex // guards out
	out   io.Writer
	debug bool
	now   func() time.Time
}

func newConvertorLog(out io.Writer) *convertorLog { return &convertorLog{out: out, now: time.Now} }

func (l *convertorLog) line(level, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "time=%q level=%s msg=%s\n", l.now().Format(time.RFC3339), level, quoted(fmt.Sprintf(format, args...)))
}

// quoted returns a message in quotes, if it is more than a word.
func quoted(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._/@^+", r)
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func (l *convertorLog) infof(format string, args ...any)  { l.line("info", format, args...) }
func (l *convertorLog) warnf(format string, args ...any)  { l.line("warning", format, args...) }
func (l *convertorLog) errorf(format string, args ...any) { l.line("error", format, args...) }

func (l *convertorLog) debugf(format string, args ...any) {
	if l.debug {
		l.line("debug", format, args...)
	}
}
