package record

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"
)

// Tables of overlaybd's own converter: columns, keys and character set are those that its users create by hand.
const (
	createLayers = `CREATE TABLE IF NOT EXISTS overlaybd_layers (
	host        varchar(255) NOT NULL,
	repo        varchar(255) NOT NULL,
	chain_id    varchar(255) NOT NULL COMMENT 'chain-id of the normal image layer',
	data_digest varchar(255) NOT NULL COMMENT 'digest of overlaybd layer',
	data_size   bigint(20)   NOT NULL COMMENT 'size of overlaybd layer',
	PRIMARY KEY (host, repo, chain_id),
	KEY index_registry_chainId (host, chain_id) USING BTREE
) ENGINE=InnoDB DEFAULT CHARSET=utf8`

	createManifests = `CREATE TABLE IF NOT EXISTS overlaybd_manifests (
	host       varchar(255) NOT NULL,
	repo       varchar(255) NOT NULL,
	src_digest varchar(255) NOT NULL COMMENT 'digest of the normal image manifest',
	out_digest varchar(255) NOT NULL COMMENT 'digest of overlaybd manifest',
	data_size  bigint(20)   NOT NULL COMMENT 'size of overlaybd manifest',
	mediatype  varchar(255) NOT NULL COMMENT 'mediatype of the converted image manifest',
	PRIMARY KEY (host, repo, src_digest, mediatype),
	KEY index_registry_src_digest (host, src_digest, mediatype) USING BTREE
) ENGINE=InnoDB DEFAULT CHARSET=utf8`
)

// Tables of ours. Digests and hashes are ASCII; a place may be a path, whose bytes need not be text.
const (
	createOwnLayers = `CREATE TABLE IF NOT EXISTS lazuli_layers (
	id         char(71)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'hash of the key; chain_id in overlaybd_layers',
	source     varchar(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'digest of the stored source layer',
	format     varchar(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
	writer     text         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'version and options of the writer',
	below      varchar(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'chain of the stored source layers below',
	chain      varchar(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'chain ID of OCI',
	digest     varchar(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'of the stored blob',
	descriptor text         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'of the stored blob, JSON',
	PRIMARY KEY (id), KEY index_source (source), KEY index_digest (digest)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4`

	createOwnPlaces = `CREATE TABLE IF NOT EXISTS lazuli_places (
	digest   varchar(191)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'of the stored blob',
	place_id char(64)        CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'SHA-256 of the place',
	place    varbinary(8192) NOT NULL COMMENT 'repository, layout or archive that is in no row of overlaybd_layers',
	PRIMARY KEY (digest, place_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4`
)

// prepare finds out which tables there are, and creates what is missing.
func (m *MySQL) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := m.db.PingContext(ctx); err != nil {
		return err
	}
	var places bool
	for _, t := range []struct {
		look, create string
		has          *bool
	}{
		{`SELECT 1 FROM overlaybd_layers LIMIT 0`, createLayers, &m.layers},
		{`SELECT 1 FROM overlaybd_manifests LIMIT 0`, createManifests, &m.manifests},
		{`SELECT 1 FROM lazuli_layers LIMIT 0`, createOwnLayers, &m.own},
		{`SELECT 1 FROM lazuli_places LIMIT 0`, createOwnPlaces, &places},
	} {
		var err error
		if *t.has, err = m.table(ctx, t.look, t.create); err != nil {
			return fmt.Errorf("tables: %w", err)
		}
	}
	m.own = m.own && places
	if !m.own && !m.layers {
		return fmt.Errorf("%w: overlaybd_layers, lazuli_layers, lazuli_places", errTables)
	}
	return nil
}

// table makes sure that there is the table that a query looks for, and reports false where there is none and the user may not create it.
func (m *MySQL) table(ctx context.Context, look, create string) (bool, error) {
	// Creating a table that exists is denied too to who may create none.
	rows, err := m.db.QueryContext(ctx, look)
	if err == nil {
		return true, errors.Join(rows.Err(), rows.Close())
	}
	var e *mysql.MySQLError
	if !errors.As(err, &e) || e.Number != erNoSuchTable && e.Number != erTableDenied {
		return false, err
	}
	_, err = m.db.ExecContext(ctx, create)
	if errors.As(err, &e) && isDenied(e) {
		return false, nil
	}
	return err == nil, err
}
