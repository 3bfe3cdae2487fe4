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
	"modernc.org/sqlite" // also the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/lazuli-project/lazuli/convert"
)

// schemaVersion is the database's user_version. Files of before there was one have 0, and the first table.
const schemaVersion = 3

// schema makes version 3 of what is there, so that files of older versions keep what they know: their layers are moved to a table with a
// longer key. Those of formats whose layers depend on the ones below were known by too little.
const schema = `
CREATE TABLE IF NOT EXISTS layers (source TEXT, format TEXT, writer TEXT, descriptor TEXT);
ALTER TABLE layers RENAME TO older;
CREATE TABLE layers (
	source     TEXT NOT NULL, -- digest of the stored source layer
	format     TEXT NOT NULL,
	writer     TEXT NOT NULL, -- version and options of the writer
	below      TEXT NOT NULL, -- chain of the stored source layers below, where the layer depends on them
	chain      TEXT NOT NULL, -- OCI's chain ID, likewise
	descriptor TEXT NOT NULL, -- of the stored blob, JSON
	PRIMARY KEY (source, format, writer, below, chain)
) STRICT, WITHOUT ROWID;
INSERT INTO layers SELECT source, format, writer, '', '', descriptor FROM older WHERE format NOT IN ('overlaybd', 'turbo-oci');
DROP TABLE older;
CREATE TABLE manifests (
	source     TEXT NOT NULL, -- digest of the source's manifest
	format     TEXT NOT NULL,
	writer     TEXT NOT NULL, -- version and options of the writer, and how the image is attached
	descriptor TEXT NOT NULL, -- of the converted manifest, JSON
	PRIMARY KEY (source, format, writer)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (
	blob  TEXT NOT NULL, -- digest, also of a manifest
	place TEXT NOT NULL, -- repository, layout or archive where it was seen
	PRIMARY KEY (blob, place)
) STRICT, WITHOUT ROWID`

// ErrNewer means that a newer version made the file.
var ErrNewer = errors.New("made by a newer version")

// DB is an open record in a SQLite file. A nil DB knows nothing and remembers nothing. It may be used concurrently, also by several processes.
type DB struct{ db *sql.DB }

var _ Record = (*DB)(nil)

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
	current, err := isCurrent(ctx, d.db)
	if err != nil || current {
		return err
	}
	return d.transaction(ctx, func(tx *sql.Tx) error {
		// Another process may have been quicker.
		current, err := isCurrent(ctx, tx)
		if err == nil && !current {
			_, err = tx.ExecContext(ctx, schema+fmt.Sprintf("; PRAGMA user_version = %d", schemaVersion))
		}
		return err
	})
}

// isCurrent reports whether the tables are of this version.
func isCurrent(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (bool, error) {
	var version int
	if err := q.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return false, err
	}
	if version > schemaVersion {
		return false, fmt.Errorf("version %d, and %d is the latest that is known: %w", version, schemaVersion, ErrNewer)
	}
	return version == schemaVersion, nil
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
	return d.find(ctx, `SELECT descriptor FROM layers WHERE source = ? AND format = ? AND writer = ? AND below = ? AND chain = ?`,
		k.Source.String(), k.Format, k.Writer, k.Below.String(), k.Chain.String())
}

// find returns what a query finds the descriptor of.
func (d *DB) find(ctx context.Context, query string, args ...any) (convert.Known, bool, error) {
	var raw string
	err := d.db.QueryRowContext(ctx, query, args...).Scan(&raw)
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
	return d.put(ctx, blob, `INSERT OR REPLACE INTO layers (source, format, writer, below, chain, descriptor) VALUES (?, ?, ?, ?, ?, ?)`,
		k.Source.String(), k.Format, k.Writer, k.Below.String(), k.Chain.String())
}

// put runs a statement whose last argument is the descriptor, and adds the places.
func (d *DB) put(ctx context.Context, blob convert.Known, statement string, args ...any) error {
	raw, err := json.Marshal(blob.Desc)
	if err == nil {
		err = d.transaction(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, statement, append(args, string(raw))...)
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
	return d.drop(ctx, known.Desc.Digest, place)
}

// drop notes that a place has a blob no more, and forgets what is nowhere any more.
func (d *DB) drop(ctx context.Context, blob digest.Digest, place string) error {
	err := d.transaction(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM places WHERE blob = ? AND place = ?`, blob.String(), place)
		for _, statement := range []string{
			`DELETE FROM layers WHERE json_extract(descriptor, '$.digest') = ?1 AND NOT EXISTS (SELECT 1 FROM places WHERE blob = ?1)`,
			`DELETE FROM manifests WHERE json_extract(descriptor, '$.digest') = ?1 AND NOT EXISTS (SELECT 1 FROM places WHERE blob = ?1)`,
		} {
			if err == nil {
				_, err = tx.ExecContext(ctx, statement, blob.String())
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// LookupManifest implements [convert.ManifestRecord].
func (d *DB) LookupManifest(ctx context.Context, k convert.ManifestKey, _ string) (convert.Known, bool, error) {
	if d == nil {
		return convert.Known{}, false, nil
	}
	return d.find(ctx, `SELECT descriptor FROM manifests WHERE source = ? AND format = ? AND writer = ?`, k.Source.String(), k.Format, k.Writer)
}

// StoreManifest implements [convert.ManifestRecord].
func (d *DB) StoreManifest(ctx context.Context, k convert.ManifestKey, manifest convert.Known) error {
	if d == nil {
		return nil
	}
	return d.put(ctx, manifest, `INSERT OR REPLACE INTO manifests (source, format, writer, descriptor) VALUES (?, ?, ?, ?)`, k.Source.String(), k.Format, k.Writer)
}

// ForgetManifest implements [convert.ManifestRecord].
func (d *DB) ForgetManifest(ctx context.Context, k convert.ManifestKey, place string) error {
	if d == nil {
		return nil
	}
	known, ok, err := d.LookupManifest(ctx, k, place)
	if err != nil || !ok {
		return err
	}
	return d.drop(ctx, known.Desc.Digest, place)
}
