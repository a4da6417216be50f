package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"troupe/internal/fault"
)

// A bucket is a place in S3, or in a server that speaks as S3 does. An upload in parts appears when its last call succeeds, or
// never.
type bucket struct {
	s3     *minio.Core
	name   string
	prefix string // "" or with a slash at its end
}

const (
	amazon = "https://s3.amazonaws.com"

	// partSize is what an upload holds in memory. 10,000 parts are the limit of S3, so a backup can have 312 GiB.
	partSize = 32 << 20

	attempts   = 4                // of a call that failed for a moment
	silence    = 2 * time.Minute  // without a byte either way, and a connection is given up
	roleMost   = 3 * time.Second  // to ask the machine for its role
	answerMost = 90 * time.Second // for the head of an answer
)

func openBucket(text string, o PlaceOptions) (Place, error) {
	name, prefix, _ := strings.Cut(text, "/")
	if prefix = strings.Trim(path.Clean("/"+prefix), "/"); prefix != "" {
		prefix += "/"
	}
	endpoint := cmp.Or(o.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), amazon)
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, fault.New(fault.Invalid, "the S3 endpoint %.200q is no address such as https://s3.example.com:9000", endpoint)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialPatiently, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: answerMost,
		ExpectContinueTimeout: 10 * time.Second, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2, DisableCompression: true,
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	region := cmp.Or(o.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if endpoint == amazon {
		providers = append(providers, &credentials.IAM{Client: &http.Client{Timeout: roleMost}})
	} else {
		region = cmp.Or(region, "us-east-1") // what other servers answer to
	}
	s3, err := minio.NewCore(u.Host, &minio.Options{
		Creds: credentials.NewChainCredentials(providers), Secure: u.Scheme == "https", Transport: transport, Region: region, MaxRetries: attempts,
	})
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the S3 endpoint %s cannot be used", endpoint)
	}
	b := &bucket{s3: s3, name: name, prefix: prefix}
	value, err := s3.GetCreds()
	if err != nil || value.SignerType.IsAnonymous() {
		return nil, fault.New(fault.Denied, "there are no credentials for %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE)", b)
	}
	return b, nil
}

// dialPatiently gives up a connection on which nothing moves. How long a backup takes nobody can know.
func dialPatiently(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &patientConn{c}, nil
}

type patientConn struct{ net.Conn }

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *patientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (b *bucket) String() string { return bucketScheme + b.name + "/" + b.prefix }

func (b *bucket) List(ctx context.Context) ([]Object, error) {
	var all []Object
	for o := range b.s3.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, b.problem("list", "s3:ListBucket", o.Err)
		}
		if name := strings.TrimPrefix(o.Key, b.prefix); isName(name) {
			all = append(all, Object{name, o.Size})
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return all, nil
}

func (b *bucket) Open(ctx context.Context, name string, offset, length int64) (io.ReadCloser, int64, error) {
	if length <= 0 {
		return io.NopCloser(strings.NewReader("")), offset, nil
	}
	var o minio.GetObjectOptions
	if err := o.SetRange(offset, offset+length-1); err != nil {
		return nil, 0, err
	}
	r, info, header, err := b.s3.GetObject(ctx, b.name, b.prefix+name, o)
	if err != nil {
		if e := minio.ToErrorResponse(err); e.Code == minio.InvalidRange {
			return io.NopCloser(strings.NewReader("")), offset, nil
		}
		return nil, 0, b.problem("read", "s3:GetObject", err)
	}
	size := info.Size
	if _, total, ok := strings.Cut(header.Get("Content-Range"), "/"); ok {
		if size, err = strconv.ParseInt(total, 10, 64); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("%s does not say how long %s is: %w", b, name, err), r.Close())
		}
	}
	return r, size, nil
}

func (b *bucket) Create(ctx context.Context, name string, r io.Reader) error {
	b.sweep(ctx)
	_, err := b.s3.Client.PutObject(ctx, b.name, b.prefix+name, r, -1, minio.PutObjectOptions{PartSize: partSize, ContentType: "application/octet-stream"})
	if err != nil {
		return b.problem("write to", "s3:PutObject", err)
	}
	return nil
}

// sweep ends uploads that a process which was killed long ago has begun: they are seen by nobody, but cost. Without the right to
// it they stay.
func (b *bucket) sweep(ctx context.Context) {
	found, err := b.s3.ListMultipartUploads(ctx, b.name, b.prefix+prefix, "", "", "", 100)
	if err != nil {
		return
	}
	for _, u := range found.Uploads {
		if isName(strings.TrimPrefix(u.Key, b.prefix)) && time.Since(u.Initiated) > abandonedAfter {
			_ = b.s3.AbortMultipartUpload(ctx, b.name, u.Key, u.UploadID)
		}
	}
}

func (b *bucket) Remove(ctx context.Context, name string) error {
	if err := b.s3.RemoveObject(ctx, b.name, b.prefix+name, minio.RemoveObjectOptions{}); err != nil {
		return b.problem("remove from", "s3:DeleteObject", err)
	}
	return nil
}

// problem says what the server answered, and what can be done.
func (b *bucket) problem(verb, right string, err error) error {
	e := minio.ToErrorResponse(err)
	switch e.Code {
	case "":
	case minio.AccessDenied, "AllAccessDisabled", "AccountProblem":
		return fault.Wrap(fault.Denied, err, "the credentials may not %s %s: give them %s on it", verb, b, right)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
		return fault.Wrap(fault.Denied, err, "%s does not take the credentials (%s): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile", b, e.Code)
	case minio.NoSuchBucket:
		return fault.Wrap(fault.NotFound, err, "there is no bucket %s: make it first, troupe does not", b.name)
	case minio.NoSuchKey:
		return fault.Wrap(fault.NotFound, err, "there is no such backup in %s", b)
	case "RequestTimeTooSkewed":
		return fault.Wrap(fault.Denied, err, "the clock of this machine differs from that of %s: set it right (NTP)", b)
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		return fault.Wrap(fault.Unavailable, inner.Err, "%s cannot be reached: %v", b, inner.Err)
	}
	return fmt.Errorf("%s %s: %w", verb, b, err)
}
