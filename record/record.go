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
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"modernc.org/sqlite" // also the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/lazuli-project/lazuli/convert"
)

// schemaVersion is the database's user_version. Files of before there was one have 0, and the first table.
const schemaVersion = 2

// schema adds what is missing, so that files of older versions keep what they know.
const schema = `
CREATE TABLE IF NOT EXISTS layers (
	source     TEXT NOT NULL, -- digest of the stored source layer
	format     TEXT NOT NULL,
	writer     TEXT NOT NULL, -- version and options of the writer
	descriptor TEXT NOT NULL, -- of the stored blob, JSON
	PRIMARY KEY (source, format, writer)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
	blob  TEXT NOT NULL, -- digest
	place TEXT NOT NULL, -- repository, layout or archive where it was seen
	PRIMARY KEY (blob, place)
) STRICT, WITHOUT ROWID`

// ErrNewer means that a newer version made the file.
var ErrNewer = errors.New("made by a newer version")

// DB is an open record. A nil DB knows nothing and remembers nothing. It may be used concurrently, also by several processes.
type DB struct{ db *sql.DB }

var _ convert.Record = (*DB)(nil)

// Open opens the record in the file, which is created where it is absent, and brought up to date where it is old.
func Open(ctx context.Context, file string) (*DB, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	// A transaction that may write begins as a writer: two of them that read first could not both go on.
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(file)}).EscapedPath(),
		RawQuery: "_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", file, err)
	}
	d := &DB{db}
	// The first connections to a new file change its journal, for which SQLite does not wait.
	for begin := time.Now(); ; {
		err := d.migrate(ctx)
		if err == nil {
			return d, nil
		}
		if !isBusy(err) || time.Since(begin) > busyTimeout || !pause(ctx) {
			return nil, errors.Join(fmt.Errorf("record %s: %w", file, err), db.Close())
		}
	}
}

// busyTimeout is how long others may keep the file locked.
const busyTimeout = 5 * time.Second

// isBusy reports whether others have the file locked.
func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// pause waits a little, and reports whether the context goes on.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// migrate brings the tables up to date.
func (d *DB) migrate(ctx context.Context) error {
	var version int
	if err := d.db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	switch {
	case version == schemaVersion:
		return nil
	case version > schemaVersion:
		return fmt.Errorf("version %d, and %d is the latest that is known: %w", version, schemaVersion, ErrNewer)
	}
	return d.transaction(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, schema+fmt.Sprintf("; PRAGMA user_version = %d", schemaVersion))
		return err
	})
}

// transaction runs fn in a transaction.
func (d *DB) transaction(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Close closes the file.
func (d *DB) Close() error {
	if d == nil {
		return nil
	}
	return d.db.Close()
}

// Lookup implements [convert.Record].
func (d *DB) Lookup(ctx context.Context, k convert.Key) (convert.Known, bool, error) {
	if d == nil {
		return convert.Known{}, false, nil
	}
	var raw string
	err := d.db.QueryRowContext(ctx, `SELECT descriptor FROM layers WHERE source = ? AND format = ? AND writer = ?`,
		k.Source.String(), k.Format, k.Writer).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return convert.Known{}, false, nil
	}
	var known convert.Known
	if err == nil {
		known.Desc, err = parseDescriptor(raw)
	}
	if err == nil {
		known.Places, err = d.places(ctx, known.Desc.Digest)
	}
	if err != nil {
		return convert.Known{}, false, fmt.Errorf("record: %w", err)
	}
	return known, true, nil
}

func parseDescriptor(raw string) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	if err := json.Unmarshal([]byte(raw), &desc); err != nil {
		return desc, err
	}
	return desc, desc.Digest.Validate()
}

// places lists where a blob was seen, sorted.
func (d *DB) places(ctx context.Context, blob digest.Digest) ([]string, error) {
	rows, err := d.db.QueryContext(ctx, `SELECT place FROM places WHERE blob = ? ORDER BY place`, blob.String())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var place string
		if err := rows.Scan(&place); err != nil {
			return nil, err
		}
		list = append(list, place)
	}
	return list, rows.Err()
}

// Store implements [convert.Record].
func (d *DB) Store(ctx context.Context, k convert.Key, blob convert.Known) error {
	if d == nil {
		return nil
	}
	raw, err := json.Marshal(blob.Desc)
	if err == nil {
		err = d.transaction(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO layers (source, format, writer, descriptor) VALUES (?, ?, ?, ?)`,
				k.Source.String(), k.Format, k.Writer, string(raw))
			for _, place := range blob.Places {
				if err == nil {
					_, err = tx.ExecContext(ctx, `INSERT OR IGNORE INTO places (blob, place) VALUES (?, ?)`, blob.Desc.Digest.String(), place)
				}
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// Forget implements [convert.Record].
func (d *DB) Forget(ctx context.Context, k convert.Key, place string) error {
	if d == nil {
		return nil
	}
	known, ok, err := d.Lookup(ctx, k)
	if err != nil || !ok {
		return err
	}
	blob := known.Desc.Digest.String()
	err = d.transaction(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM places WHERE blob = ? AND place = ?`, blob, place); err != nil {
			return err
		}
		return dropLost(ctx, tx, blob)
	})
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// dropLost removes the layers whose blob has no place.
func dropLost(ctx context.Context, tx *sql.Tx, blob string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM layers WHERE json_extract(descriptor, '$.digest') = ?1
		AND NOT EXISTS (SELECT 1 FROM places WHERE blob = ?1)`, blob)
	return err
}
