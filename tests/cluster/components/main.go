// Command components is every program of a one-node Kubernetes in one file: the first argument, or the name it is
// called by, picks the program. One build links them all, since they share most of their packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	helm "helm.sh/helm/v4/pkg/cmd"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// The plugins of CoreDNS in the order in which a query passes them; the stock list imports the SDKs of three clouds.
var dnsPlugins = []string{"bind", "ready", "errors", "cache", "kubernetes"}

func main() {
	name := filepath.Base(os.Args[0])
	if known(name) {
		os.Exit(run(name))
	}
	if len(os.Args) < 2 || !known(os.Args[1]) {
		fmt.Fprintln(os.Stderr, "usage: components PROGRAM [ARGUMENT...]")
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(run(os.Args[0]))
}

func known(name string) bool {
	switch name {
	case "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "coredns", "helm",
		"host-path-provisioner":
		return true
	}
	return false
}

func run(name string) int {
	switch name {
	case "kube-apiserver":
		return cli.Run(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		return cli.Run(controllers.NewControllerManagerCommand())
	case "kube-scheduler":
		return cli.Run(scheduler.NewSchedulerCommand())
	case "kubelet":
		return cli.Run(kubelet.NewKubeletCommand(context.Background()))
	case "kube-proxy":
		return cli.Run(proxy.NewProxyCommand())
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err) // prints it as kubectl does, and exits
		}
		return 0
	case "coredns":
		dnsserver.Directives = dnsPlugins
		coremain.Run()
		return 0
	case "host-path-provisioner":
		if err := runProvisioner(); err != nil {
			slog.Error("the provisioner cannot start", slog.Any("error", err))
			return 1
		}
		return 0
	}
	return runHelm()
}

func runHelm() int {
	kube.ManagedFieldsManager = "helm" // as helm's own main does: field ownership is what upgrades compare
	command, err := helm.NewRootCmd(os.Stdout, os.Args[1:], helm.SetupLogging)
	if err != nil {
		slog.Error("helm cannot start", slog.Any("error", err))
		return 1
	}
	if err := command.Execute(); err != nil {
		if failed, ok := errors.AsType[helm.CommandError](err); ok {
			return failed.ExitCode
		}
		return 1
	}
	return 0
}
