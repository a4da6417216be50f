package doctor

import (
	"fmt"
	"os"
)

// This file knows how this member is started, reloaded and read, for remedies that can be typed as they stand.

// managed returns the unit of the member, "" when systemd does not manage it.
func (x *exam) managed() string {
	if _, err := os.Stat(x.host.systemd); err != nil {
		return ""
	}
	if x.process.err != nil {
		return "troupe"
	}
	return x.unit(x.process.value.PID)
}

func (x *exam) restart() string {
	if unit := x.managed(); unit != "" {
		return "systemctl restart " + unit
	}
	return "stop the member and start it again: troupe server --data " + x.settings.Data
}

func (x *exam) start() string {
	if unit := x.managed(); unit != "" {
		return "systemctl start " + unit
	}
	return "troupe server --data " + x.settings.Data
}

func (x *exam) reload() string {
	if unit := x.managed(); unit != "" {
		return "systemctl reload " + unit
	}
	if x.process.err == nil && x.process.value.PID > 0 {
		return fmt.Sprintf("kill -HUP %d", x.process.value.PID)
	}
	return x.restart()
}

// log is where the member's log is.
func (x *exam) log() string {
	if unit := x.managed(); unit != "" {
		return "journalctl -u " + unit + " -n 50"
	}
	return "read what the member has written to its standard error"
}
