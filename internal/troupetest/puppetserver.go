package troupetest

// This file runs the real Puppet Server, as a peer to compare with, to record and to exchange CA folders with.

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const debianServerConf = "/etc/puppet/puppetserver"

// PuppetServer is a real puppetserver on the loopback address, with folders of its own: 7.9.5 of Debian 12, or 8.7.0 in
// a chroot. It runs as user puppet.
type PuppetServer struct {
	Dir  string // holds puppet/puppet.conf, code/, ca/, ssl/, log/
	Addr string // address:port

	root string // of the chroot that it runs in; "" means none
	o    PuppetServerOptions
	proc *process
}

// PuppetServerOptions chooses what differs between tests.
type PuppetServerOptions struct {
	Certname     string            // "" means puppet.example.test
	Environments string            // a folder of environments, copied; "" means one empty environment
	CA           string            // a CA folder to start on, copied; "" lets the server make one
	SSL          string            // with CA: the ssldir of the server that it belongs to, copied
	Autosign     bool              // sign every request
	AutosignPath string            // a list of names or an executable that decides; "" leaves it to Autosign
	Conf         map[string]string // further text appended to conf.d files, by file name
	Settings     []string          // lines of the [server] section of puppet.conf, which replace those of the same name
	PuppetDB     string            // URL of a PuppetDB that exported resources are stored in; "" means that they are not
	Authority    *PuppetServer     // a running server whose CA makes the certificate of this one, which has no CA of its own: a compile server

	Chroot  string                         // name of the chroot to run in, such as trixie-server; "" means this machine
	Visible []string                       // with Chroot: folders of the machine that it can see
	Rewrite func(name, text string) string // changes a conf.d file, called last
}

// StartPuppetServer starts the server and waits until it answers: 25 to 60 seconds on two cores.
func StartPuppetServer(t *testing.T, o PuppetServerOptions) *PuppetServer {
	t.Helper()
	if o.Certname == "" {
		o.Certname = "puppet.example.test"
	}

	s := &PuppetServer{Dir: TempDir(t), Addr: freeAddress(t), o: o}
	if o.Chroot != "" {
		s.root = chrootFolder(o.Chroot)
	}
	s.writeFolders(t, o)
	s.Start(t)
	return s
}

// Start starts the server, also again after Stop or Kill, and waits until it answers.
func (s *PuppetServer) Start(t *testing.T) {
	t.Helper()
	s.spawn(t)
	s.await(t)
}

// Kill ends the server at once, as a power failure of one program.
func (s *PuppetServer) Kill(t *testing.T) {
	t.Helper()
	if err := s.proc.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.proc.wait(time.Minute); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the server with TERM, as its unit file does.
func (s *PuppetServer) Stop(t *testing.T) {
	t.Helper()
	if err := s.proc.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.proc.wait(time.Minute); err != nil {
		t.Fatal(err)
	}
}

// CA returns the CA folder.
func (s *PuppetServer) CA() string { return filepath.Join(s.Dir, "ca") }

// SSL returns the ssldir, in which the server's own certificate lies.
func (s *PuppetServer) SSL() string { return filepath.Join(s.Dir, "ssl") }

// CLI is the command line of the server's CA, asking the server itself.
func (s *PuppetServer) CLI() CACLI {
	return CACLI{Config: filepath.Join(s.Dir, "puppet", "puppet.conf")}
}

// Pair makes a certificate with further names and returns the files that it and its key lie in.
func (s *PuppetServer) Pair(t *testing.T, certname string, names ...string) (certificate, key string) {
	t.Helper()
	s.CLI().MustRun(t, "generate", "--certname", certname, "--subject-alt-names", strings.Join(names, ","))
	return filepath.Join(s.SSL(), "certs", certname+".pem"), filepath.Join(s.SSL(), "private_keys", certname+".pem")
}

// Code returns the folder of environments.
func (s *PuppetServer) Code() string { return filepath.Join(s.Dir, "code", "environments") }

// writeFolders copies Debian's configuration and turns its paths into the server's own.
func (s *PuppetServer) writeFolders(t *testing.T, o PuppetServerOptions) {
	t.Helper()
	for _, dir := range []string{"puppet", "code/environments/production/manifests", "var", "run", "log", "conf.d", "ssl"} {
		mkdir(t, filepath.Join(s.Dir, dir))
	}
	if o.Environments != "" {
		copyTree(t, o.Environments, s.Code())
	}
	if o.CA != "" {
		copyTree(t, o.CA, s.CA())
	}
	if o.SSL != "" {
		copyTree(t, o.SSL, s.SSL())
	}
	copyTree(t, filepath.Join(s.root, debianServerConf, "services.d"), filepath.Join(s.Dir, "services.d"))
	if o.Authority != nil {
		s.writeCompileServer(t, o)
	}

	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	own := strings.NewReplacer(
		"/etc/puppet/puppetserver", s.Dir, "/etc/puppet/code", s.Dir+"/code", "/etc/puppet", s.Dir+"/puppet",
		"/var/lib/puppetserver/jruby-gems", "/var/lib/puppetserver/jruby-gems", "/var/lib/puppetserver", s.Dir+"/var",
		"/run/puppetserver", s.Dir+"/run", "/var/log/puppetserver", s.Dir+"/log",
		"0.0.0.0", "127.0.0.1", "8140", port, "#max-active-instances: 1", "max-active-instances: 1",
	)
	for _, name := range []string{"auth", "ca", "global", "metrics", "puppetserver", "web-routes", "webserver"} {
		text := own.Replace(readFile(t, filepath.Join(s.root, debianServerConf, "conf.d", name+".conf"))) + o.Conf[name+".conf"]
		if o.Rewrite != nil {
			text = o.Rewrite(name+".conf", text)
		}
		writeFile(t, filepath.Join(s.Dir, "conf.d", name+".conf"), text)
	}
	for _, name := range []string{"logback.xml", "request-logging.xml"} {
		writeFile(t, filepath.Join(s.Dir, name), own.Replace(readFile(t, filepath.Join(s.root, debianServerConf, name))))
	}

	autosign := o.AutosignPath
	if autosign == "" {
		autosign = strconv.FormatBool(o.Autosign)
	}
	// Of a setting that is there twice, Puppet takes the first.
	writeFile(t, filepath.Join(s.Dir, "puppet", "puppet.conf"), strings.Join(slices.Concat([]string{
		"[main]", "server = localhost", "serverport = " + port, "ssldir = " + s.SSL(), "cadir = " + s.CA(), "[server]",
	}, o.Settings, []string{
		"certname = " + o.Certname, "dns_alt_names = puppet,localhost",
		"codedir = " + s.Dir + "/code", "environment_timeout = 0", "storeconfigs = " + strconv.FormatBool(o.PuppetDB != ""), "reports = store",
		"autosign = " + autosign,
	}), "\n")+"\n")
	if o.PuppetDB != "" {
		writeTerminus(t, filepath.Join(s.Dir, "puppet"), o.PuppetDB)
	}
	writeFile(t, filepath.Join(s.Dir, "run", "restart"), "0")
	owner := userOf(t, s.root, "puppet", "puppetserver")
	run(t, exec.CommandContext(t.Context(), "chown", "-R", fmt.Sprintf("%d:%d", owner.Uid, owner.Gid), s.Dir))
}

// writeCompileServer does what the manual of Puppet Server says of a compile server: a certificate from the CA of another one, and
// the CA service switched off.
func (s *PuppetServer) writeCompileServer(t *testing.T, o PuppetServerOptions) {
	t.Helper()
	certificate, key := o.Authority.Pair(t, o.Certname, "puppet", "localhost")
	writeFile(t, filepath.Join(s.SSL(), "certs", o.Certname+".pem"), readFile(t, certificate))
	writeFile(t, filepath.Join(s.SSL(), "private_keys", o.Certname+".pem"), readFile(t, key))
	writeFile(t, filepath.Join(s.SSL(), "certs", "ca.pem"), readFile(t, filepath.Join(o.Authority.CA(), "ca_crt.pem")))
	writeFile(t, filepath.Join(s.SSL(), "crl.pem"), readFile(t, filepath.Join(o.Authority.CA(), "ca_crl.pem")))

	const service = "puppetlabs.services.ca.certificate-authority-"
	file := filepath.Join(s.Dir, "services.d", "ca.cfg")
	writeFile(t, file, strings.NewReplacer("#"+service+"disabled", service+"disabled", service+"service", "#"+service+"service").Replace(readFile(t, file)))
}

// spawn starts the process and waits for nothing.
func (s *PuppetServer) spawn(t *testing.T) {
	t.Helper()
	o := s.o
	// The java line of Debian's unit file.
	cmd := exec.Command("/usr/bin/java", "-Xms512m", "-Xmx1g",
		"-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger", "-Djruby.lib=/usr/share/jruby/lib",
		"-XX:+CrashOnOutOfMemoryError", "-jar", "/usr/share/puppetserver/puppetserver.jar",
		"--config", filepath.Join(s.Dir, "conf.d"), "--bootstrap-config", filepath.Join(s.Dir, "services.d"),
		"--restart-file", filepath.Join(s.Dir, "run", "restart"))
	cmd.Dir = "/"
	owner := userOf(t, s.root, "puppet", "puppetserver")
	if s.root == "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	} else {
		cmd = enter(t, o.Chroot, owner, append([]string{s.Dir}, o.Visible...), cmd.Args)
	}
	s.proc = startProcess(t, "puppetserver "+o.Certname, filepath.Join(s.Dir, "log", "console.log"), cmd)
}

// await waits until the server answers.
func (s *PuppetServer) await(t *testing.T) {
	t.Helper()
	client := &http.Client{
		Timeout: 5 * time.Second,
		// Readiness only: the test does not know the CA yet.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	Eventually(t, javaStartLimit, "puppetserver answers /status/v1/simple", func() bool {
		if s.proc.ended() {
			t.Fatalf("puppetserver ended: %v", s.proc.err)
		}
		answer, err := client.Get("https://" + s.Addr + "/status/v1/simple")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return err == nil && string(body) == "running"
	})
}

// javaStartLimit is how long a server on the JVM may take until it serves, on a machine that does other things as well.
const javaStartLimit = 20 * time.Minute

// userOf is the user that a package makes for its server, on this machine or, with a root, in a chroot.
func userOf(t *testing.T, root, name, pkg string) *syscall.Credential {
	t.Helper()
	for line := range strings.Lines(readFile(t, filepath.Join("/", root, "etc", "passwd"))) {
		field := strings.Split(line, ":")
		if field[0] != name || len(field) < 4 {
			continue
		}
		uid, err := strconv.ParseUint(field[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		gid, err := strconv.ParseUint(field[3], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Fatalf("there is no user %s: install the package %s (tools/packages.sh %s)", name, pkg, pkg)
	return nil
}

// freeAddress is one that nobody has, and that the kernel gives to nobody who asks for any. Servers that can
// listen on port 0 must do that instead.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+rand.IntN(15_000)))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return l.Addr().String()
	}
	t.Fatal("no address is free")
	return ""
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	mkdir(t, to)
	run(t, exec.CommandContext(t.Context(), "cp", "-R", from+"/.", to))
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}
