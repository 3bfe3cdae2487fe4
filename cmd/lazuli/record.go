package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/record"
	"github.com/lazuli-project/lazuli/store"
)

// openRecord opens what was converted before. Without a state directory nothing is remembered.
func (a *app) openRecord(ctx context.Context, flag string) (record.Record, error) {
	kind, name, _ := strings.Cut(flag, ":")
	switch {
	case flag == "none":
		return record.None, nil
	case kind == "mysql" && name != "":
		m, err := record.OpenMySQL(ctx, name)
		if errors.Is(err, record.ErrDSN) {
			return nil, &usageError{err}
		}
		if err != nil {
			return nil, err
		}
		return m, nil
	case kind == "sqlite" && name != "":
	case flag == "":
		var ok bool
		if name, ok = stateFile("record.db"); !ok {
			return record.None, nil
		}
	default: // which may hold a password
		return nil, usagef("--record: sqlite:FILE, mysql:DSN and none are possible")
	}
	db, err := record.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return db, nil
}

// placeOpener opens the places that a record names, with the flags of the side that is in the same registry: refs are the source, then
// the targets.
func (a *app) placeOpener(refs []store.Ref, src, dest *storeFlags) func(context.Context, string) (store.Source, error) {
	return func(ctx context.Context, place string) (store.Source, error) {
		ref, err := store.Parse(place)
		if err != nil {
			return nil, err
		}
		flags := &storeFlags{}
		for i, r := range refs {
			if r.Host == ref.Host {
				flags = dest
				if i == 0 {
					flags = src
				}
			}
		}
		so, err := a.storeOptions(flags)
		if err != nil {
			return nil, err
		}
		// Who cannot be reached quickly is passed over.
		so.Retry = fetch.Retry{MaxWait: 3 * time.Second}
		return store.OpenSource(ctx, ref, so)
	}
}

func (a *app) recordCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "record",
		Short: "What was converted before",
		Long: `A layer that was converted once is not converted again: the record knows which blob it became, and in
which repositories, layouts and archives that was seen. It is a help only: a blob that is gone is made again.

mysql:DSN is a MySQL or MariaDB database, for many converters, which may be the one of overlaybd's convertor: DSN is
USER:PASSWORD@tcp(HOST:PORT)/DATABASE. What overlaybd's convertor wrote there is listed and exported, never changed, and not used
in conversions: it does not say which options a layer was made with, and a layer fits only on the one that it was made for.`,
		Example: `  lazuli record ls
  lazuli record rm --place old.registry.example
  lazuli record export >record.jsonl && lazuli record import --record sqlite:other.db record.jsonl
  lazuli record ls --record 'mysql:lazuli:secret@tcp(db.example:3306)/overlaybd'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&file, "record", "", "`sqlite:FILE` or mysql:DSN (a file in the user's state directory)")
	// with opens the record for a command.
	with := func(fn func(ctx context.Context, db record.Record, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) (err error) {
			db, err := a.openRecord(cmd.Context(), file)
			if err != nil {
				return err
			}
			if db == record.None {
				return usagef("--record: there is no record")
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			return fn(cmd.Context(), db, args)
		}
	}
	cmd.AddCommand(
		&cobra.Command{Use: "ls", Short: "List the layers that are known", Args: exactArgs(0), RunE: with(a.listRecord)},
		&cobra.Command{Use: "export", Short: "Print the record, one JSON object a line", Args: exactArgs(0), RunE: with(a.exportRecord)},
		&cobra.Command{
			Use: "import FILE|sqlite:FILE|mysql:DSN", Short: "Add what export printed, or what another record knows",
			Long: `Add what export printed, where - is standard input, or what another record knows. Nothing is taken of a file with a line that is
wrong.`,
			Example: `  ssh builder lazuli record export | lazuli record import -
  lazuli record import 'mysql:reader:secret@tcp(db.example:3306)/overlaybd'`, Args: exactArgs(1), RunE: with(a.importRecord),
		},
		a.removeRecordCommand(with),
	)
	return cmd
}

// listRecord prints a line for each place of a blob, or one JSON list.
func (a *app) listRecord(ctx context.Context, db record.Record, _ []string) error {
	list, err := db.Entries(ctx)
	if err != nil {
		return err
	}
	if a.json {
		if list == nil {
			list = []record.Entry{}
		}
		return a.printJSON(list)
	}
	for _, e := range list {
		if _, err := fmt.Fprintf(a.stdout, "%s %s %s %s %s\n", cmp.Or(e.Source, e.Chain), e.Format, e.Blob.Digest, formatSize(e.Blob.Size), orDash(strings.Join(e.Places, ","))); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) exportRecord(ctx context.Context, db record.Record, _ []string) error {
	list, err := db.Entries(ctx)
	if err != nil {
		return err
	}
	out := json.NewEncoder(a.stdout)
	for _, e := range list {
		if err := out.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) importRecord(ctx context.Context, db record.Record, args []string) error {
	read := a.readEntries
	if kind, _, ok := strings.Cut(args[0], ":"); ok && (kind == "sqlite" || kind == "mysql") {
		read = a.otherEntries
	}
	list, err := read(ctx, args[0])
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := db.Import(ctx, e); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.stdout, "%d layers imported\n", len(list))
	return err
}

// otherEntries returns what another record knows.
func (a *app) otherEntries(ctx context.Context, name string) (_ []record.Entry, err error) {
	if file, ok := strings.CutPrefix(name, "sqlite:"); ok {
		if _, err := os.Stat(file); err != nil { // which would be made
			return nil, err
		}
	}
	other, err := a.openRecord(ctx, name)
	if err != nil {
		return nil, err
	}
	defer closeQuietly(other)
	return other.Entries(ctx)
}

// readEntries reads what export printed.
func (a *app) readEntries(_ context.Context, name string) ([]record.Entry, error) {
	in := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer closeQuietly(f)
		in = f
	}
	var list []record.Entry
	for d := json.NewDecoder(in); ; {
		var e record.Entry
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err == nil {
			err = e.Validate()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", name, len(list)+1, err)
		}
		list = append(list, e)
	}
}

func (a *app) removeRecordCommand(with func(func(context.Context, record.Record, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	var all bool
	var place string
	cmd := &cobra.Command{
		Use:   "rm DIGEST... | --place PLACE | --all",
		Short: "Forget layers",
		Long:  "Forget layers: by the digest of the source's layer or of what it became, by a registry, repository, layout or archive, or all. What overlaybd's convertor wrote stays.",
		Args:  rangeArgs(0, 1000),
	}
	cmd.Flags().BoolVar(&all, "all", false, "forget everything")
	cmd.Flags().StringVar(&place, "place", "", "what is in `HOST[/REPOSITORY]`, oci:DIR or oci-archive:FILE, and nowhere else")
	cmd.RunE = with(func(ctx context.Context, db record.Record, args []string) error {
		if btoi(all)+btoi(place != "")+btoi(len(args) > 0) != 1 {
			return usagef("one of DIGEST, --place and --all is needed")
		}
		var digests []digest.Digest
		for _, s := range args {
			d, err := digest.Parse(s)
			if err != nil {
				return usagef("%s: %v", s, err)
			}
			digests = append(digests, d)
		}
		if len(digests) == 0 {
			digests = []digest.Digest{""}
		}
		var total int64
		for _, d := range digests {
			n, err := db.Remove(ctx, d, place)
			if err != nil {
				return err
			}
			total += n
		}
		_, err := fmt.Fprintf(a.stdout, "%d layers forgotten\n", total)
		return err
	})
	return cmd
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
