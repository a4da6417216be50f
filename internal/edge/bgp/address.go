package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file puts the service addresses on an interface, from where the site's bird or FRR announces them.
//
// An address is given for a few seconds at a time and renewed. If this process dies, however it dies, the kernel takes the
// addresses away itself, and with them the announcement.

// addresses is the way of mode address. It has no preference to tell: Joining and Leaving are announced like Announced.
type addresses struct {
	o       Options
	log     *slog.Logger
	told    Phase
	renewed time.Time
}

func (w *addresses) start(context.Context) error {
	if _, err := netlink.LinkByName(w.o.Interface); err != nil {
		return fmt.Errorf("interface %s: %w", w.o.Interface, err)
	}
	w.told = untold
	return nil
}

func (w *addresses) tell(_ context.Context, p Phase) error {
	link, err := netlink.LinkByName(w.o.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", w.o.Interface, err)
	}
	var errs []error
	for _, prefix := range w.o.Prefixes {
		if p == Silent {
			err = netlink.AddrDel(link, w.address(prefix))
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				err = nil // it is not there
			}
		} else {
			err = netlink.AddrReplace(link, w.address(prefix))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("address %v on %s (needs CAP_NET_ADMIN): %w", prefix, w.o.Interface, err))
		}
	}
	w.told, w.renewed = p, w.o.Now()
	return errors.Join(errs...)
}

func (w *addresses) address(p netip.Prefix) *netlink.Addr {
	s := int(w.o.Lifetime.Seconds())
	a := &netlink.Addr{
		IPNet:    &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		ValidLft: s, PreferedLft: s,
	}
	if p.Addr().Is6() {
		// Other edges have the address, too: looking for duplicates would find them. It is never a source of our own connections.
		a.Flags, a.PreferedLft = unix.IFA_F_NODAD, 0
	}
	return a
}

// watch renews the addresses in time, and looks whether they are there.
func (w *addresses) watch(ctx context.Context, _ *Status) error {
	if w.told != Silent && w.told != untold && w.o.Now().Sub(w.renewed) >= w.o.Lifetime/5 {
		if err := w.tell(ctx, w.told); err != nil {
			return err
		}
	}
	link, err := netlink.LinkByName(w.o.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", w.o.Interface, err)
	}
	there, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", w.o.Interface, err)
	}
	for _, p := range w.o.Prefixes {
		has := slices.ContainsFunc(there, func(a netlink.Addr) bool { return a.IP.Equal(p.Addr().AsSlice()) })
		switch {
		case has && w.told == Silent:
			return fmt.Errorf("somebody else put %v on %s, so it may be announced although this edge is silent: ip address del %v dev %s",
				p, w.o.Interface, p, w.o.Interface)
		case !has && w.told != Silent && w.told != untold:
			w.log.Warn("an address was taken away, and is put back", "prefix", p.String(), "interface", w.o.Interface)
			return w.tell(ctx, w.told)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("interface %s is down, so nobody announces its addresses: ip link set %s up", w.o.Interface, w.o.Interface)
	}
	return nil
}

func (w *addresses) stop(context.Context) error { return nil }
