package backend

import (
	"encoding/json"
	"errors"
	"strings"
)

// S3Config is the configuration of the kind s3.
type S3Config struct {
	AccessKeyID       string  `json:"access_key_id,omitempty"`
	AccessKeySecret   string  `json:"access_key_secret,omitempty"`
	Endpoint          string  `json:"endpoint,omitempty"` // default s3.amazonaws.com
	Scheme            string  `json:"scheme,omitempty"`   // default https
	BucketName        string  `json:"bucket_name,omitempty"`
	Region            string  `json:"region,omitempty"`
	ObjectPrefix      string  `json:"object_prefix,omitempty"`
	ChecksumAlgorithm *string `json:"checksum_algorithm,omitempty"` // ignored: parts always have a checksum
}

func s3Config(raw []byte) ([]byte, error) {
	var c S3Config
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	if c.BucketName == "" || c.Region == "" {
		return nil, errors.New("missing 'bucket_name' or 'region'")
	}
	if c.Endpoint == "" {
		c.Endpoint = "s3.amazonaws.com"
	}
	return json.Marshal(&c)
}

// ossConfig takes the scheme from the endpoint, where it may stand.
func ossConfig(raw []byte) ([]byte, error) {
	c := make(map[string]string)
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	if c["endpoint"] == "" || c["bucket_name"] == "" {
		return nil, errors.New("no endpoint or bucket is specified")
	}
	if scheme, host, ok := strings.Cut(c["endpoint"], "://"); ok {
		c["scheme"], c["endpoint"] = scheme, host
	}
	return json.Marshal(c)
}

func localDir(raw []byte) (string, error) {
	c := make(map[string]string)
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", err
	}
	if c["dir"] == "" {
		return "", errors.New("no `dir` option is specified")
	}
	return c["dir"], nil
}
