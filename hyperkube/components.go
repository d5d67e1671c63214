package main

import (
	"errors"
	"io/fs"
	"os"
	_ "time/tzdata" // time zones of CronJobs, on machines without zoneinfo

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's ways to log in
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	"github.com/rktnetes/rktshim/hyperkube/local"
)

// components are Kubernetes' own commands and etcd's, as upstream has them.
func components() []command {
	return []command{
		{"kube-apiserver", "the Kubernetes API", component(apiserver.NewAPIServerCommand)},
		{"kube-controller-manager", "the controllers behind the API", component(controllermanager.NewControllerManagerCommand)},
		{"kube-scheduler", "chooses a node for each pod", component(func() *cobra.Command { return scheduler.NewSchedulerCommand() })},
		{"kube-proxy", "makes Services reachable on a node", component(proxy.NewProxyCommand)},
		{"kubectl", "the client of the Kubernetes API", runKubectl},
		{"etcd", "the database of the Kubernetes API", runEtcd},
	}
}

func component(newCommand func() *cobra.Command) func(args []string) int {
	return func(args []string) int {
		cmd := newCommand()
		cmd.SetArgs(args)
		return cli.Run(cmd)
	}
}

// runKubectl sets the process's arguments: kubectl reads them itself, to find its
// plugins and the user's preferences. If nothing says which cluster is meant, it is
// the one of local-up.
func runKubectl(args []string) int {
	_, err := os.Stat(clientcmd.RecommendedHomeFile)
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" && errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(local.DefaultKubeconfig); err == nil {
			os.Setenv(clientcmd.RecommendedConfigPathEnvVar, local.DefaultKubeconfig)
		}
	}
	os.Args = append([]string{"kubectl"}, args...)
	logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints it and ends the process
	}
	return 0
}

// runEtcd returns when etcd was asked to end; it ends the process itself if it fails.
func runEtcd(args []string) int {
	etcdmain.Main(append([]string{"etcd"}, args...))
	return 0
}
