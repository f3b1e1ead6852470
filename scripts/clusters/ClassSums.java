import java.awt.image.Raster;
import java.io.File;
import java.io.IOException;
import javax.imageio.ImageIO;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.io.LongWritable;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.Mapper;
import org.apache.hadoop.mapreduce.Reducer;
import org.apache.hadoop.mapreduce.lib.input.NLineInputFormat;
import org.apache.hadoop.mapreduce.lib.output.FileOutputFormat;

/** Sum of pixels and number of images of each class (an image's folder): PATHS OUT LINES-A-MAP, by Hadoop's local runner. */
public class ClassSums {
    public static class Map extends Mapper<LongWritable, Text, Text, Text> {
        @Override
        protected void map(LongWritable at, Text line, Context out) throws IOException, InterruptedException {
            File file = new File(line.toString());
            Raster pixels = ImageIO.read(file).getRaster();
            long sum = 0;
            for (int y = 0; y < pixels.getHeight(); y++)
                for (int x = 0; x < pixels.getWidth(); x++) sum += pixels.getSample(x, y, 0);
            out.write(new Text(file.getParentFile().getName()), new Text(sum + "\t1"));
        }
    }

    public static class Reduce extends Reducer<Text, Text, Text, Text> {
        @Override
        protected void reduce(Text name, Iterable<Text> values, Context out) throws IOException, InterruptedException {
            long sum = 0, n = 0;
            for (Text v : values) {
                String[] parts = v.toString().split("\t");
                sum += Long.parseLong(parts[0]);
                n += Long.parseLong(parts[1]);
            }
            out.write(name, new Text(sum + "\t" + n));
        }
    }

    public static void main(String[] args) throws Exception {
        Configuration conf = new Configuration();
        conf.set("mapreduce.framework.name", "local");
        Job job = Job.getInstance(conf, "class sums");
        job.setJarByClass(ClassSums.class);
        job.setInputFormatClass(NLineInputFormat.class);
        NLineInputFormat.addInputPath(job, new Path(args[0]));
        NLineInputFormat.setNumLinesPerSplit(job, Integer.parseInt(args[2]));
        job.setMapperClass(Map.class);
        job.setCombinerClass(Reduce.class);
        job.setReducerClass(Reduce.class);
        job.setNumReduceTasks(2);
        job.setOutputKeyClass(Text.class);
        job.setOutputValueClass(Text.class);
        FileOutputFormat.setOutputPath(job, new Path(args[1]));
        int maps = new NLineInputFormat().getSplits(job).size();
        boolean done = job.waitForCompletion(false);
        System.out.println("maps=" + maps);
        System.exit(done ? 0 : 1);
    }
}
