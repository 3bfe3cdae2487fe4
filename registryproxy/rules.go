package registryproxy

import (
	"encoding/csv"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
)

// formatInSuffix stands for the name of the format in [Rule].Suffix.
const formatInSuffix = "{format}"

// Rule says what is made of images.
type Rule struct {
	// Repositories and Tags are patterns of what the rule is for: "*" stands for anything without a slash, "**" for anything. "" is
	// everything.
	Repositories, Tags string
	// Formats to convert to, by their names in package catalog, with Options.
	Formats []string
	Options catalog.Options
	// Attach says how the result appears. Default is convert.AttachReferrer.
	Attach convert.Attach
	// Suffix stands behind the tag of the result. With convert.AttachTag, the default is "-{format}"; with convert.AttachIndex the tag
	// that was pushed names the index, unless there is a suffix; referrers have none.
	Suffix string
	// Platforms to convert, as in [convert.Options].
	Platforms []string

	repositories, tags *regexp.Regexp
}

// ParseRule reads a rule as a line of comma-separated key=value, with the quotes of CSV around what has commas in it:
//
//	repository=apps/**,tag=v*,format=nydus,attach=referrer
//	"format=nydus,overlaybd",attach=tag,suffix=-lazy-{format},compression=lz4
//
// Other keys than repository, tag, format, attach, suffix and platform are those of [catalog.Options].
func ParseRule(line string) (Rule, error) {
	var r Rule
	reader := csv.NewReader(strings.NewReader(line))
	fields, err := reader.Read()
	if err != nil {
		return r, fmt.Errorf("rule %q: %w", line, err)
	}
	if _, err := reader.Read(); err == nil {
		return r, fmt.Errorf("rule %q: more than one line", line)
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return r, fmt.Errorf("rule %q: %q is not KEY=VALUE", line, field)
		}
		switch key {
		case "repository":
			r.Repositories = value
		case "tag":
			r.Tags = value
		case "format":
			r.Formats = strings.Split(value, ",")
		case "attach":
			r.Attach = convert.Attach(value)
		case "suffix":
			r.Suffix = value
		case "platform":
			r.Platforms = strings.Split(value, ",")
		default:
			err = r.Options.Set(key, value)
			if errors.Is(err, catalog.ErrUnknownKey) {
				err = fmt.Errorf("%w, and repository, tag, format, attach, suffix, platform", err)
			}
		}
		if err != nil {
			return r, fmt.Errorf("rule %q: %w", line, err)
		}
	}
	if err := r.prepare(); err != nil {
		return r, fmt.Errorf("rule %q: %w", line, err)
	}
	return r, nil
}

// prepare checks the rule and puts in defaults.
func (r *Rule) prepare() error {
	if len(r.Formats) == 0 {
		r.Formats = []string{"nydus"}
	}
	if _, err := catalog.NewWriters(r.Formats, r.Options); err != nil {
		return err
	}
	switch r.Attach {
	case "":
		r.Attach = convert.AttachReferrer
	case convert.AttachIndex, convert.AttachReferrer, convert.AttachTag:
	default:
		return fmt.Errorf("attach %q: tag, index and referrer are possible", r.Attach)
	}
	switch {
	case r.Attach == convert.AttachReferrer && r.Suffix != "":
		return errors.New("a referrer has no tag, and so no suffix")
	case r.Attach == convert.AttachTag && r.Suffix == "":
		r.Suffix = "-" + formatInSuffix
	}
	if r.Attach == convert.AttachTag && len(r.Formats) > 1 && !strings.Contains(r.Suffix, formatInSuffix) {
		return fmt.Errorf("suffix %q: several formats need %s in it, else they take each other's tag", r.Suffix, formatInSuffix)
	}
	for _, name := range r.Formats {
		if suffix := r.suffix(name); suffix != "" && !tagSuffix.MatchString(suffix) {
			return fmt.Errorf("suffix %q: letters, digits, '.', '_' and '-' are possible", r.Suffix)
		}
	}
	var err error
	if r.repositories, err = compile(r.Repositories); err == nil {
		r.tags, err = compile(r.Tags)
	}
	return err
}

var tagSuffix = regexp.MustCompile(`^[\w.-]{1,64}$`)

// suffix returns what stands behind the tag of a format's image.
func (r *Rule) suffix(format string) string {
	return strings.ReplaceAll(r.Suffix, formatInSuffix, format)
}

// compile makes a regular expression of a pattern; nil matches everything.
func compile(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, nil
	}
	expr := regexp.QuoteMeta(pattern)
	expr = strings.ReplaceAll(expr, `\*\*`, `.*`)
	expr = strings.ReplaceAll(expr, `\*`, `[^/]*`)
	r, err := regexp.Compile("^" + expr + "$")
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return r, nil
}

// matches reports whether the rule is for what was pushed, which is not a result of the rule itself.
func (r *Rule) matches(repository, tag string) bool {
	if r.repositories != nil && !r.repositories.MatchString(repository) || r.tags != nil && !r.tags.MatchString(tag) {
		return false
	}
	return !slices.ContainsFunc(r.Formats, func(f string) bool { return r.Suffix != "" && strings.HasSuffix(tag, r.suffix(f)) })
}
