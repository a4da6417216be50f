package backup

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"time"

	"troupe/internal/fault"
)

// This file says what a place of backups is.

// A Place keeps files by name. Its errors have words for the operator.
type Place interface {
	// List returns the files whose name is a backup's.
	List(ctx context.Context) ([]Object, error)
	// Open reads length bytes from offset on, or fewer at the end, and says how long the whole file is.
	Open(ctx context.Context, name string, offset, length int64) (r io.ReadCloser, size int64, err error)
	// Create writes a file. It is there, whole and durable, when Create returns nil, and else not at all.
	Create(ctx context.Context, name string, r io.Reader) error
	// Remove removes a file; one that is gone already is no error.
	Remove(ctx context.Context, name string) error
	// String names the place.
	String() string
}

// An Object is a file of a place.
type Object struct {
	Name string
	Size int64
}

// PlaceOptions tells where S3 is. The zero value asks the usual variables, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION and
// AWS_DEFAULT_REGION, and then AWS itself.
type PlaceOptions struct {
	Endpoint string // https://HOST:PORT
	Region   string
}

const bucketScheme = "s3://"

// OpenPlace returns the place that text names: a folder, or s3://BUCKET/PREFIX. It asks nobody yet.
func OpenPlace(text string, o PlaceOptions) (Place, error) {
	if rest, ok := strings.CutPrefix(text, bucketScheme); ok {
		return openBucket(rest, o)
	}
	switch {
	case text == "":
		return nil, fault.New(fault.Invalid, "say where the backups are: a folder, or s3://BUCKET/PREFIX")
	case strings.Contains(text, "://"):
		return nil, fault.New(fault.Invalid, "%q is no place for backups: give a folder, or s3://BUCKET/PREFIX", text)
	}
	dir, err := filepath.Abs(text)
	return folder{dir}, err
}

// abandonedAfter is the age at which what somebody began to write is nobody's any more.
const abandonedAfter = 7 * 24 * time.Hour
