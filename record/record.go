package record

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/lazuli-project/lazuli/convert"
)

const schema = `
CREATE TABLE IF NOT EXISTS layers (
	source     TEXT NOT NULL, -- digest of the stored source layer
	format     TEXT NOT NULL,
	writer     TEXT NOT NULL, -- version and options of the writer
	descriptor TEXT NOT NULL, -- of the stored blob, JSON
	PRIMARY KEY (source, format, writer)
) STRICT, WITHOUT ROWID`

// DB is an open record. A nil DB knows nothing and remembers nothing.
type DB struct{ db *sql.DB }

var _ convert.Record = (*DB)(nil)

// Open opens the record in the file, which is created where it is absent.
func Open(ctx context.Context, file string) (*DB, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(file)}).EscapedPath(), RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", file, err)
	}
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("record %s: %w", file, err), db.Close())
	}
	return &DB{db}, nil
}

// Close closes the file.
func (d *DB) Close() error {
	if d == nil {
		return nil
	}
	return d.db.Close()
}

// Lookup implements [convert.Record].
func (d *DB) Lookup(ctx context.Context, k convert.Key) (ocispec.Descriptor, bool, error) {
	var desc ocispec.Descriptor
	if d == nil {
		return desc, false, nil
	}
	var raw string
	err := d.db.QueryRowContext(ctx, `SELECT descriptor FROM layers WHERE source = ? AND format = ? AND writer = ?`,
		k.Source.String(), k.Format, k.Writer).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return desc, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(raw), &desc)
	}
	if err == nil {
		err = desc.Digest.Validate()
	}
	if err != nil {
		return ocispec.Descriptor{}, false, fmt.Errorf("record: %w", err)
	}
	return desc, true, nil
}

// Store implements [convert.Record].
func (d *DB) Store(ctx context.Context, k convert.Key, blob ocispec.Descriptor) error {
	if d == nil {
		return nil
	}
	raw, err := json.Marshal(blob)
	if err == nil {
		_, err = d.db.ExecContext(ctx, `INSERT OR REPLACE INTO layers (source, format, writer, descriptor) VALUES (?, ?, ?, ?)`,
			k.Source.String(), k.Format, k.Writer, string(raw))
	}
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
