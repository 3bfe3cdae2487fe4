package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/store"
)

// convertorApp is overlaybd's standalone converter with its flags.
type convertorApp struct {
	*app
	log *convertorLog

	repository, inputTag, inputDigest, outputTag string
	native, turbo, fast                          string // tags of the engines
	user                                         string
	plain, insecure                              bool
	certDirs, rootCAs, clientCerts               []string
	dir, fsType                                  string
	oci, mkfs, disableSparse, referrer           bool
	vsize, concurrency                           int
	dbType, db                                   string
	reserve, noUpload, dumpManifest, verbose     bool
}

// convertor is the program convertor.
func (a *app) convertor(ctx context.Context, args []string) int {
	quiet := *a
	quiet.quiet, quiet.progress = true, "none"
	c := &convertorApp{app: &quiet, log: newConvertorLog(a.stderr)}
	cmd := c.command() //nolint:contextcheck // it gets its own when it is executed
	cmd.SetArgs(args)
	cmd.SetIn(a.stdin)
	cmd.SetOut(a.stdout)
	cmd.SetErr(a.stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		c.log.errorf("%v", err)
		return exitFailed // for everything, as there
	}
	return exitDone
}

func (c *convertorApp) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "convertor",
		Short: "An image conversion tool from oci image to overlaybd image.",
		Long: `Convert an image of a repository to overlaybd or turboOCI, or to both from one download, in the same repository.
The flags are those of overlaybd's standalone converter; no other program is started, and nothing is unpacked to a disk.

Version: 1.4.3-lazuli ` + version(),
		Example: `  convertor -r registry.example.com/app -u user:password -i 1 -o 1_overlaybd
  convertor -r localhost:5000/app --plain -i 1 --overlaybd 1_overlaybd --turboOCI 1_turbo --fstype erofs --oci`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&c.repository, "repository", "r", "", "repository for converting image (required)")
	f.StringVarP(&c.user, "username", "u", "", "user[:password] Registry user and password")
	f.BoolVar(&c.plain, "plain", false, "connections using plain HTTP")
	f.BoolVar(&c.verbose, "verbose", false, "show debug log")
	f.StringVarP(&c.inputTag, "input-tag", "i", "", "tag for image converting from (required when input-digest is not set)")
	f.StringVarP(&c.inputDigest, "input-digest", "g", "", "digest for image converting from (required when input-tag is not set)")
	f.StringVarP(&c.outputTag, "output-tag", "o", "", "tag for image converting to")
	f.StringVarP(&c.dir, "dir", "d", "tmp_conv", "directory used for temporary data")
	f.BoolVar(&c.oci, "oci", false, "export image with oci spec")
	f.StringVar(&c.fsType, "fstype", string(overlaybd.Ext4), "filesystem type of turboOCI images: ext4 or erofs; overlaybd images have ext4")
	f.BoolVar(&c.mkfs, "mkfs", true, "make ext4 fs in bottom layer; else in a layer of its own")
	f.IntVar(&c.vsize, "vsize", overlaybd.DefaultSize>>30, "virtual block device size (GB)")
	f.StringVar(&c.fast, "fastoci", "", "build 'Overlaybd-Turbo OCIv1' format (old name of turboOCIv1. deprecated)")
	f.StringVar(&c.turbo, "turboOCI", "", "build 'Overlaybd-Turbo OCIv1' format")
	f.StringVar(&c.native, "overlaybd", "", "build overlaybd format")
	f.StringVar(&c.db, "db-str", "", "db str for overlaybd conversion: USER:PASSWORD@tcp(HOST:PORT)/DATABASE")
	f.StringVar(&c.dbType, "db-type", "", "type of db to use for conversion deduplication. Available: mysql. Default none")
	f.IntVar(&c.concurrency, "concurrency-limit", 4, "without effect: the platforms of an image are built one after another, their layers on all cores")
	f.BoolVar(&c.disableSparse, "disable-sparse", false, "without effect: there are no files that could be sparse")
	f.BoolVar(&c.referrer, "referrer", false, "push converted manifests with subject; this includes --oci")

	f.StringArrayVar(&c.certDirs, "cert-dir", nil, "In these directories, root CA should be named as *.crt and client cert should be named as *.cert, *.key")
	f.StringArrayVar(&c.rootCAs, "root-ca", nil, "root CA certificates")
	f.StringArrayVar(&c.clientCerts, "client-cert", nil, "client cert certificates, should form in ${cert-file}:${key-file}")
	f.BoolVar(&c.insecure, "insecure", false, "don't verify the server's certificate chain and host name")

	f.BoolVar(&c.reserve, "reserve", false, "keep converted layers in the directory for temporary data")
	f.BoolVar(&c.noUpload, "no-upload", false, "upload nothing")
	f.BoolVar(&c.dumpManifest, "dump-manifest", false, "write manifests and configurations into the directory for temporary data")
	return cmd
}

// prepare checks the flags and fills in what follows from them.
func (c *convertorApp) prepare(args []string) error {
	if len(args) > 0 {
		c.log.warnf("arguments are ignored: %s", strings.Join(args, " "))
	}
	switch {
	case c.repository == "":
		return usagef(`required flag(s) "repository" not set`)
	case c.inputTag == "" && c.inputDigest == "":
		return usagef("one of input-tag [-i] or input-digest [-g] is required")
	case c.inputTag == "":
		if _, err := digest.Parse(c.inputDigest); err != nil {
			return usagef("--input-digest %s: %v", c.inputDigest, err)
		}
	}
	if err := c.prepareEngines(); err != nil {
		return err
	}
	if c.referrer {
		c.oci = true
	}
	switch {
	case c.vsize < 1:
		return usagef("--vsize %d: at least 1 GB is needed", c.vsize)
	case c.concurrency < 0:
		return usagef("--concurrency-limit %d: a number of manifests is needed, or 0 for no limit", c.concurrency)
	}
	switch c.dbType {
	case "mysql":
		if c.db == "" {
			c.log.warnf("no db-str was provided, falling back to no deduplication")
		}
	case "", "none":
		if c.db != "" {
			c.log.warnf("--db-str has no effect without --db-type mysql")
			c.db = ""
		}
	default:
		return usagef("--db-type %s: mysql is possible", c.dbType)
	}
	if c.noUpload && c.db != "" {
		c.log.warnf("--db-str has no effect with --no-upload: what is recorded must be in the registry")
		c.db = ""
	}
	return nil
}

// prepareEngines finds out what is built.
func (c *convertorApp) prepareEngines() error {
	if c.fast != "" {
		c.log.warnf("--fastoci is the old name of --turboOCI")
		if c.turbo == "" {
			c.turbo = c.fast
		}
	}
	switch {
	case c.native == "" && c.turbo == "" && c.outputTag == "":
		return usagef("output-tag is required, you can specify it by [-o|--overlaybd|--turboOCI]")
	case c.native == "" && c.turbo == "":
		c.native = c.outputTag
	case c.outputTag != "":
		c.log.warnf("--output-tag has no effect beside --overlaybd and --turboOCI")
	}
	switch fs := overlaybd.FS(c.fsType); {
	case fs != overlaybd.Ext4 && fs != overlaybd.EROFS:
		return usagef("--fstype %s: ext4 and erofs are possible", c.fsType)
	case c.turbo == "" && fs != overlaybd.Ext4:
		c.log.warnf("--fstype %s is for --turboOCI, overlaybd images have ext4", c.fsType)
	case c.turbo != "" && !c.mkfs && c.fsType != "ext4":
		return usagef("--mkfs=false: the base layer has ext4, and so must turboOCI's layers above it")
	case c.turbo == c.native:
		return usagef("--overlaybd and --turboOCI: two images cannot have one tag, %s", c.native)
	}
	return nil
}

// engines are the formats to make, and how they are called.
func (c *convertorApp) engines() (formats, names []string, tags map[string]string) {
	tags = make(map[string]string)
	if c.native != "" {
		formats, names = append(formats, overlaybd.Name), append(names, "overlaybd")
		tags[overlaybd.Name] = c.native
	}
	if c.turbo != "" {
		formats, names = append(formats, turbooci.Name), append(names, "TurboOCIv1")
		tags[turbooci.Name] = c.turbo
	}
	return formats, names, tags
}

// storeFlags returns the flags of the registry.
func (c *convertorApp) storeFlags() (*storeFlags, error) {
	s := &storeFlags{plainHTTP: c.plain, insecure: c.insecure, certDirs: c.certDirs, cas: c.rootCAs}
	for _, pair := range c.clientCerts {
		cert, key, ok := strings.Cut(pair, ":")
		if !ok || strings.Contains(key, ":") {
			return nil, usagef("--client-cert %s: CERT-FILE:KEY-FILE is needed", pair)
		}
		s.clients = append(s.clients, store.ClientCert{CertFile: cert, KeyFile: key})
	}
	if c.verbose {
		s.onRequest = func(r store.RequestInfo) { c.log.debugf("%s %s: %d", r.Method, r.Path, r.Status) }
	}
	if c.user != "" && !strings.Contains(c.user, ":") {
		p, err := c.askPassword(c.user)
		if err != nil {
			return nil, fmt.Errorf("--username: %w", err)
		}
		c.user += ":" + p
	}
	s.creds = c.user
	return s, nil
}
